"""A reduction that keeps every violation: requests that a fence orders before the free go first.

Taking a request from a live vCPU's mailbox commutes with everything that any actor does, except
with the free of that vCPU. If the fence makes the free wait for this request anyway, its delivery
is a persistent set of one: exploring it alone loses no reachable violation, and it cannot be put
off for ever, as the mailbox shrinks. It is used only where the delivery does nothing but
acknowledge (no guest to leave, nobody waiting), the ordering's fence is on, and no fault can touch
a message.
`--no-reduce` turns it off; a test compares the violations found with and without it.
"""

from teardown_lab.explorer.cast import VM
from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.steps import ACK, MANAGER
from vcpu_worker.vcpu import Running, Vcpu
from vm_protocol import messages
from vm_protocol.topology import Mailbox


class Reduction:
    """Finds, in a state, the one delivery that suffices."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pinning: dict[int, int] = {}
        self._covered: dict[tuple[int, ...], bool] = {}

    def only(self, state: State) -> int | None:
        """Return the queue whose head may go first alone, None when there is no such queue."""
        model = self._model
        if state[model.floating_at] != 0:
            return None
        for vcpu in range(model.vcpus):
            queue = model.first_mailbox + vcpu
            mailbox = state[model.first_queue + queue]
            if mailbox == 0:
                continue
            place = model.first_queue + 2 + 2 * vcpu
            pins = self._pins(state[MANAGER])
            key = (
                vcpu,
                state[vcpu + 1],
                pins >> vcpu & 1,
                state[place],
                state[place + 1],
                mailbox,
            )
            covered = self._covered.get(key)
            if covered is None:
                covered = self._covered[key] = self._is_covered(key)
            if covered:
                return queue
        return None

    def _pins(self, manager: int) -> int:
        """Return a mask of the vCPUs whose pins the manager has not dropped yet."""
        known = self._pinning.get(manager)
        if known is None:
            vm = self._model.steps.states[MANAGER].value(manager).vms[VM]
            held = {pin.vcpu for root in vm.roots for pin in root.pins}
            known = self._pinning[manager] = sum(1 << vcpu for vcpu in held)
        return known

    def _is_covered(self, key: tuple[int, ...]) -> bool:
        vcpu, worker, is_pinning, commands, replies, mailbox = key
        model, steps = self._model, self._model.steps
        owned = steps.states[vcpu + 1].value(worker).vcpus.get(Mailbox(VM, vcpu))
        if owned is None or owned.freed:
            return False
        letter = model.contents.value(mailbox)[0][0]
        step = steps.deliver(vcpu + 1, worker, model.first_mailbox + vcpu, letter)
        if any(operation[0] != ACK for operation in step.operations):
            return False
        generation = getattr(steps.letters.value(letter).message, "generation", 0)
        fence = self._fence(owned, bool(is_pinning), commands, replies)
        return fence is None or generation <= fence

    def _fence(self, owned: Vcpu, is_pinning: bool, commands: int, replies: int) -> int | None:
        """Return the generation that a free on its way waits for; None: all that is posted now."""
        pending = [each for each in self._commands(commands) if "free_vcpu" in each.steps]
        fences = [self._fence_of(Running(each, ""), is_pinning) for each in pending]
        running = owned.running
        if running is not None and "free_vcpu" in running.command.steps[running.position :]:
            fences.append(self._fence_of(running, is_pinning))
        answered = [
            message.generation
            for message in self._messages(replies)
            if isinstance(message, messages.UnloadDone)
        ]
        known = [fence for fence in fences if fence is not None]
        if not fences or len(known) < len(fences):
            return None
        return max(min(known), *answered) if answered and running else min(known)

    def _fence_of(self, running: Running, is_pinning: bool) -> int | None:
        """Return what a command's free waits for; None when an unload before it will tell."""
        ahead = running.command.steps[running.position :]
        before_free = ahead[: ahead.index("free_vcpu")]
        if "unload_mmu" in before_free and is_pinning:
            return None
        return max(running.command.generation, running.fence)

    def _messages(self, content: int) -> list[messages.Message]:
        letters = self._model.steps.letters
        return [letters.value(entry[0]).message for entry in self._model.contents.value(content)]

    def _commands(self, content: int) -> list[messages.DestroyVcpu]:
        found = self._messages(content)
        return [each for each in found if isinstance(each, messages.DestroyVcpu)]


def may_reduce(model: Model) -> bool:
    """Tell whether the reduction holds for this ordering and these faults."""
    budget = model.budget
    return model.cast.ordering.fence and not (budget.duplicate or budget.redeliver or budget.hold)

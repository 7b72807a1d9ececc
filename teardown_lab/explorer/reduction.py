"""A reduction that loses no violation: where one transition is enough, the others are put off.

A set of transitions of a state is persistent if nothing that can happen without them depends on
them. In a state space without cycles, and every transition here uses up a message, exploring one
persistent set in each state still takes every transition of every maximal run in some equivalent
order (Godefroid, 1996, chapter 4). What a transition finds depends on what it reads: its actor's
state, its queue's head and, of other actors, only whether a vCPU is freed, in guest or visible. So
equivalent orders find the same. Three sets of one are used:

1. A request at the head of a *freed* vCPU's mailbox. The vCPU stays freed and its tombstone as it
   is, so it is rejected whenever it comes, and nobody reads what that changes.
2. A request at the head of a live vCPU's mailbox that only sets a bit (nobody waits for it, no
   guest is left), when every free of this vCPU that can come is fenced by its generation or a
   newer one. It commutes with all but that free, which waits for it.
3. The head of the manager's replies, when its handling posts and raises nothing and looks at no
   vCPU: it pops a head, appends to tails and changes what only the manager reads. It is used only
   while the manager can take no other step: no command, no tick.

None is used when a fault may touch a message; the second needs the ordering's fence. A test
compares what is found with and without (`--no-reduce`).
"""

from typing import Final

from teardown_lab.explorer.cast import VM
from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.steps import (
    ACK,
    CANCEL,
    DROP,
    FIND,
    MANAGER,
    SEND,
    SET,
    UNBIND,
)
from vcpu_worker.vcpu import NO_ROOTS, Running, Vcpu
from vm_protocol import messages
from vm_protocol.topology import Mailbox

_COMMANDS, _REPLIES = 0, 1
"""The manager's queues, by number."""

_QUIET: Final = frozenset({SEND, ACK, DROP, UNBIND, SET, CANCEL, FIND})
"""Operations of the manager that neither change nor read anything of a vCPU but a queue's tail."""

class Reduction:
    """Finds, in a state, the one delivery that suffices."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._is_fenced = model.cast.ordering.fence
        self._pinning: dict[int, int] = {}
        self._covered: dict[tuple[int, ...], bool] = {}
        self._quiet: dict[tuple[int, int], bool] = {}
        self._ticking: dict[tuple[int, int], bool] = {}

    def only(self, state: State) -> int | None:
        """Return the queue whose head may go first alone, None when there is no such queue."""
        model = self._model
        for vcpu in range(model.vcpus):
            queue = model.first_mailbox + vcpu
            mailbox = state[model.first_queue + queue]
            if mailbox and (model.is_freed(state, vcpu) or self._may_take(state, vcpu, mailbox)):
                return queue
        replies = state[model.first_queue + _REPLIES]
        if replies and not state[model.first_queue + _COMMANDS]:
            key = (state[MANAGER], replies)
            quiet = self._quiet.get(key)
            if quiet is None:
                quiet = self._quiet[key] = self._is_quiet(*key)
            if quiet and not self._may_tick(state):
                return _REPLIES
        return None

    # --- the manager -----------------------------------------------------------------------

    def _is_quiet(self, manager: int, replies: int) -> bool:
        model = self._model
        letter = model.contents.value(replies)[0][0]
        step = model.steps.deliver(MANAGER, manager, _REPLIES, letter)
        return all(operation[0] in _QUIET for operation in step.operations)

    def _may_tick(self, state: State) -> bool:
        model = self._model
        key = (state[model.timers_at], state[model.budget_at])
        known = self._ticking.get(key)
        if known is None:
            left = model.budgets.value(state[model.budget_at]).ticks
            known = self._ticking[key] = bool(left) and model.has_ticker(state)
        return known

    # --- mailboxes -------------------------------------------------------------------------

    def _may_take(self, state: State, vcpu: int, mailbox: int) -> bool:
        if not self._is_fenced:
            return False
        place = self._model.first_queue + 2 + 2 * vcpu
        pins = self._pins(state[MANAGER])
        key = (vcpu, state[vcpu + 1], pins >> vcpu & 1, state[place], state[place + 1], mailbox)
        covered = self._covered.get(key)
        if covered is None:
            covered = self._covered[key] = self._is_covered(*key)
        return covered

    def _pins(self, manager: int) -> int:
        """Return a mask of the vCPUs whose pins the manager has not dropped yet."""
        known = self._pinning.get(manager)
        if known is None:
            vm = self._model.steps.states[MANAGER].value(manager).vms[VM]
            held = {pin.vcpu for root in vm.roots for pin in root.pins}
            known = self._pinning[manager] = sum(1 << vcpu for vcpu in held)
        return known

    def _is_covered(
        self, vcpu: int, worker: int, is_pinning: int, commands: int, replies: int, mailbox: int
    ) -> bool:
        model, steps = self._model, self._model.steps
        owned = steps.states[vcpu + 1].value(worker).vcpus.get(Mailbox(VM, vcpu))
        if owned is None or owned.freed or owned.in_guest:
            return False
        letter = model.contents.value(mailbox)[0][0]
        step = steps.deliver(vcpu + 1, worker, model.first_mailbox + vcpu, letter)
        if any(operation[0] != ACK for operation in step.operations):
            return False
        generation = getattr(steps.letters.value(letter).message, "generation", 0)
        frees = [
            *self._pending(owned, commands),
            *self._running(owned, bool(is_pinning), replies),
        ]
        return all(fence is None or generation <= fence for fence in frees)

    def _pending(self, owned: Vcpu, commands: int) -> list[int | None]:
        """Return what the frees of commands wait for that lie in the worker's queue."""
        found: list[int | None] = []
        for command in self._messages(commands):
            if isinstance(command, messages.DestroyVcpu) and "free_vcpu" in command.steps:
                asks = owned.running is None and _asks(owned, command.steps)
                found.append(None if asks else command.generation)
        return found

    def _running(self, owned: Vcpu, is_pinning: bool, replies: int) -> list[int | None]:
        """Return what the free of the running command waits for, if one is ahead.

        None stands for a generation that is still to be asked for, and so covers all of today.
        """
        running = owned.running
        if running is None or "free_vcpu" not in _ahead(running):
            return []
        if running.waiting == "unload" and is_pinning:
            return [None]
        ahead = _ahead(running)
        if _asks(owned, ahead[1:] if running.waiting == "unload" else ahead):
            return [None]
        answers = [
            message.generation
            for message in self._messages(replies)
            if isinstance(message, messages.UnloadDone)
        ]
        return [max(running.command.generation, running.fence, *answers, 0)]

    def _messages(self, content: int) -> list[messages.Message]:
        letters = self._model.steps.letters
        return [letters.value(entry[0]).message for entry in self._model.contents.value(content)]


def _ahead(running: Running) -> tuple[str, ...]:
    return running.command.steps[running.position :]


def _asks(owned: Vcpu, ahead: tuple[str, ...]) -> bool:
    """Tell whether an unload before the next free will release roots, and so be answered.

    A vCPU without roots has nothing to ask, and a 2007 zap takes its roots away.
    """
    for step in ahead:
        if step in ("free_vcpu", "zap_all_until_empty"):
            return False
        if step == "unload_mmu":
            return owned.contexts != NO_ROOTS
    return False


def may_reduce(model: Model) -> bool:
    """Tell whether the reduction holds with these faults."""
    budget = model.budget
    return not (budget.duplicate or budget.redeliver or budget.hold)

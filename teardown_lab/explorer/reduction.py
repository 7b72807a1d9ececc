"""A reduction that loses no violation: where one queue is enough, the others are put off.

What may happen to the head of one queue (its delivery, and the faults that may meet it) can be
explored alone in a state, if in every run from there the first of these can be moved to the front,
and the delivery stays possible until then (stubborn sets: Valmari, 1990). As every transition uses
up a message or a fault, there are no cycles, and by induction over its length every run to an end
has an explored one that takes the same transitions in an equivalent order. What a transition finds
depends on what it reads: its actor's state, its queue's head and, of other actors, only whether a
vCPU is freed, in guest or visible; so equivalent orders find the same. The queues are:

1. The mailbox of a *freed* vCPU outside its guest. It stays freed and its tombstone as it is: the
   request is rejected whenever it comes, and nobody reads what that changes. One that was freed in
   its guest leaves that at a request, which whoever gives memory back looks at.
2. The mailbox of a live vCPU, if its head only sets a bit (nobody waits for it, no guest is left)
   and every free of this vCPU that can come waits for this generation or a newer one. A copy that
   comes before it leaves the original a duplicate, and one that completes the fence in its place
   ends in the same state with the answer that began the wait taken a little later.
3. The manager's replies, if handling the head posts and raises nothing and looks at no vCPU: it
   appends to tails and changes what only the manager reads; and if the manager can take no other
   step: no command, no tick, no released copy, no take-over.

A superseded manager's message that is refused is explored alone as well: it changes nothing.
A crash of the manager appends to tails and gives back what the manager holds, as its other steps
do. What it repeats is in the queues at once, so the second sees every free that comes of it.

The second needs the ordering's fence. A lost connection brings back what its consumer holds: where
one may still come, the third is not used, and of a mailbox the loss that also brings back its head
is explored at once; a later one differs from losing the connection alone (a choice of its own) by a
request that is consumed already, which its vCPU acknowledges and forgets. A test compares what is
found with and without (`--no-reduce`).
"""

from typing import Final

from teardown_lab.explorer.cast import VM
from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.operations import (
    ACK,
    CANCEL,
    DROP,
    FIND,
    REACHED,
    SEND,
    SET,
    STARTED,
    UNBIND,
)
from teardown_lab.explorer.steps import MANAGER
from vcpu_worker.vcpu import NO_ROOTS, Running, Vcpu
from vcpu_worker.waits import Wait
from vm_protocol import messages
from vm_protocol.topology import Mailbox

_COMMANDS, _REPLIES = 0, 1
"""The manager's queues, by number."""

_QUIET: Final = frozenset({SEND, ACK, DROP, UNBIND, SET, CANCEL, FIND, STARTED, REACHED})
"""Operations of the manager that neither change nor read anything of a vCPU but a queue's tail."""


class Reduction:
    """Finds, in a state, the one delivery that suffices."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._is_fenced = model.cast.ordering.fence
        self._floating: dict[int, int] = {}
        self._pinning: dict[int, int] = {}
        self._covered: dict[tuple[int, ...], bool] = {}
        self._quiet: dict[tuple[int, int], bool] = {}
        self._ticking: dict[tuple[int, int], bool] = {}

    def choices(self, state: State) -> list[int]:
        """Return the choices that suffice in a state."""
        refused = self._model.refused(state)
        if refused is not None:
            return [refused]
        return self._model.choices(state, self.only(state))

    def only(self, state: State) -> int | None:
        """Return the queue whose head may be explored alone, None when there is no such queue."""
        model = self._model
        floating = self._queues_of(state[model.floating_at])
        for vcpu in range(model.vcpus):
            queue = model.first_mailbox + vcpu
            mailbox = state[model.first_queue + queue]
            if not mailbox:
                continue
            if not self._settles_only(vcpu, state[vcpu + 1], mailbox):
                continue
            if model.is_buried(state, vcpu) or (
                self._is_fenced
                and not floating & self._own_queues(vcpu)
                and self._may_take(state, vcpu, mailbox)
            ):
                return queue
        replies = state[model.first_queue + _REPLIES]
        has_other = state[model.first_queue + _COMMANDS] or floating & 0b11
        may_return = (
            model.may_lose(state) or model.may_crash(state) or model.may_be_superseded(state)
        )
        if replies and not has_other and not may_return:
            key = (state[MANAGER], replies)
            quiet = self._quiet.get(key)
            if quiet is None:
                quiet = self._quiet[key] = self._is_quiet(*key)
            if quiet and not self._may_tick(state):
                return _REPLIES
        return None

    def _queues_of(self, floating: int) -> int:
        """Return a mask of the queues whose messages float."""
        if not floating:
            return 0
        known = self._floating.get(floating)
        if known is None:
            queues = {queue for queue, _ in self._model.hands.value(floating)}
            known = self._floating[floating] = sum(1 << queue for queue in queues)
        return known

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

    def _own_queues(self, vcpu: int) -> int:
        """Return a mask of the commands and replies of a vCPU's worker."""
        return 0b11 << (2 + 2 * vcpu)

    def _settles_only(self, vcpu: int, worker: int, mailbox: int) -> bool:
        """Tell whether handling a mailbox's head asks for nothing but to be rid of it."""
        model = self._model
        (letter, _, _), _ = model.contents.pop(mailbox)
        return model.steps.deliver(
            vcpu + 1, worker, model.first_mailbox + vcpu, letter
        ).settles_only

    def _may_take(self, state: State, vcpu: int, mailbox: int) -> bool:
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
        if owned is None or owned.in_guest:
            return False
        (letter, _, _), _ = model.contents.pop(mailbox)
        generation = steps.letters.generation(letter)
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
        """Return the generation that a free still to come in the running command waits for.

        None stands for a generation that is still to be asked for; it covers every request so far.
        """
        running = owned.running
        if running is None or "free_vcpu" not in _ahead(running):
            return []
        is_unloading = running.waiting is Wait.UNLOAD
        if is_unloading and is_pinning:
            return [None]
        ahead = _ahead(running)
        if _asks(owned, ahead[1:] if is_unloading else ahead):
            return [None]
        answer = self._answer(running, replies) if is_unloading else 0
        return [max(running.command.generation, running.fence, answer)]

    def _answer(self, running: Running, replies: int) -> int:
        """Return the generation of the first answer to the unload that is waited for."""
        place = (running.command.step, running.position)
        answers = (
            message.generation
            for message in self._messages(replies)
            if isinstance(message, messages.UnloadDone)
            and (message.step, message.position) == place
        )
        return next(answers, 0)

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

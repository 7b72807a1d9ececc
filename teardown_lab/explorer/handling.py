"""What moves do to a state: an actor handles an input, and its operations change queues and timers.

The model (model.py) says which moves there are; `after` is always the state in the making.
"""

from collections.abc import Sequence
from dataclasses import replace

from teardown_lab.explorer import judging
from teardown_lab.explorer.boxes import Contents, Hands, QueuedLetter, Tagged
from teardown_lab.explorer.cast import VM, Cast
from teardown_lab.explorer.choice import TICK
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.findings import FLUSHED_LIVE, UNACCOUNTED, UNFOUNDED, Finding
from teardown_lab.explorer.interning import Interned
from teardown_lab.explorer.operations import (
    ACK,
    CANCEL,
    DROP,
    FIND,
    PAGE,
    POST,
    RAISED,
    REACHED,
    REQUEUE,
    SEND,
    SET,
    STARTED,
    UNBIND,
    VM_FREED,
    WITNESS,
    Operation,
)
from teardown_lab.explorer.steps import MANAGER, Letter, Step, Steps
from vm_protocol import limits, messages
from vm_protocol.invariants import Invariant
from vm_protocol.timers import TimerKind
from vm_protocol.topology import Mailbox


class Handling:
    """The tables of one exploration, and what an input does to a state."""

    def __init__(self, cast: Cast, budget: Budget) -> None:
        self.cast = cast
        self.steps = Steps(cast)
        self.vcpus = cast.scenario.vcpus
        self.contents = Contents()
        self.hands = Hands(self.steps.letters.identity)
        self.sets: Interned[tuple[int, ...]] = Interned()
        self.budgets: Interned[Budget] = Interned()
        self.witnessed: set[str] = set()
        self.reached: set[int] = set()
        count = 1 + self.vcpus
        self.first_queue = count
        self.queue_count = len(cast.queues)
        self.first_mailbox = self.queue_count - self.vcpus
        after = count + self.queue_count
        (
            self.held_at,
            self.floating_at,
            self.timers_at,
            self.bound_at,
            self.budget_at,
            self.seen_at,
        ) = range(after, after + 6)
        self.ticker = self.steps.timers.number((MANAGER, TimerKind.TICK.of(VM)))
        self.has_copies = bool(budget.duplicate or budget.redeliver or budget.crash or budget.stale)
        self.budget = budget
        self._freed: dict[tuple[int, int], bool] = {}
        self.given_back: set[tuple[int, str]] = set()

    def is_freed(self, state: Sequence[int], vcpu: int) -> bool:
        """Tell whether a vCPU's memory is gone."""
        number = state[vcpu + 1]
        known = self._freed.get((vcpu, number))
        if known is None:
            worker = self.steps.states[vcpu + 1].value(number)
            owned = worker.vcpus.get(Mailbox(VM, vcpu))
            known = self._freed[vcpu, number] = owned is not None and owned.freed
        return known

    def is_buried(self, state: Sequence[int], vcpu: int) -> bool:
        """Tell whether a vCPU's memory is gone, and its processor runs no guest of it."""
        worker = self.steps.states[vcpu + 1].value(state[vcpu + 1])
        return self.is_freed(state, vcpu) and not worker.vcpus[Mailbox(VM, vcpu)].in_guest

    def held_by(self, state: Sequence[int], actor: int) -> tuple[Tagged, ...]:
        """Return what an actor has not settled yet, and gets again after a lost connection."""
        held = self.hands.value(state[self.held_at])
        return tuple(each for each in held if self.consumer_of(each[0]) == actor)

    def give_back(self, after: list[int], unsettled: tuple[Tagged, ...]) -> None:
        """Put what a consumer had in hand back to its queues' heads, beginning with the last one.

        A delivery that its own step has given back stays where that put it.
        """
        for queue, entry in unsettled:
            message_id = self.steps.letters.identity(entry[0])
            held = after[self.held_at]
            after[self.held_at] = self.hands.settle(held, queue, message_id) if held else 0
            if (queue, message_id) not in self.given_back:
                place = self.first_queue + queue
                after[place] = self.contents.put_back(after[place], entry)

    def consumer_of(self, queue: int) -> int:
        """Return who consumes a queue: 0 is the manager, v + 1 the worker of vCPU v."""
        if queue >= self.first_mailbox:
            return queue - self.first_mailbox + 1
        return MANAGER if queue < 2 else (queue - 2) // 2 + 1

    def fire(self, after: list[int], kind: int, index: int, findings: list[Finding]) -> None:
        """Let a timer fire: the ticker, or the deadline of this place."""
        timers = list(self.sets.value(after[self.timers_at]))
        if kind == TICK:
            self.spend(after, "ticks")
            index = timers.index(self.ticker)
        timer = timers.pop(index)
        after[self.timers_at] = self.sets.number(tuple(timers))
        actor = self.steps.timers.value(timer)[0]
        self.handle(after, actor, self.steps.fire(timer, after[actor]), findings)

    def spend(self, after: list[int], name: str) -> None:
        """Take one of these choices off the budget."""
        budget = self.budgets.value(after[self.budget_at])
        left = replace(budget, **{name: getattr(budget, name) - 1})
        after[self.budget_at] = self.budgets.number(left)
        # A superseded manager is seen once something that it sent is refused.
        if name != "stale":
            self.witnessed.add(name)

    def deliver(
        self, after: list[int], queue: int, entry: QueuedLetter, findings: list[Finding]
    ) -> None:
        """Let the queue's consumer handle a message; judge a request before asking the core."""
        actor = self.consumer_of(queue)
        step = self.steps.deliver(actor, after[actor], queue, entry[0])
        # What a superseded manager posts and a vCPU refuses to look at is no use of it.
        if self.is_stale(entry) and step.refuses_stale:
            self.witnessed.add("stale")
        elif queue >= self.first_mailbox:
            self._judge_request(after, actor - 1, entry, findings)
        after[self.held_at] = self.hands.add(after[self.held_at], queue, entry)
        self.handle(after, actor, step, findings)

    def is_stale(self, entry: QueuedLetter) -> bool:
        """Tell whether a superseded manager sent a message."""
        return bool(self.budget.stale and self.steps.letters.value(entry[0]).entry)

    def _judge_request(
        self, after: list[int], vcpu: int, entry: QueuedLetter, findings: list[Finding]
    ) -> None:
        letters, is_new = self.steps.letters, True
        if self.has_copies:
            seen = self.sets.value(after[self.seen_at])
            bit = 1 << letters.generation(entry[0])
            is_new = not seen[vcpu] & bit
        if self.is_freed(after, vcpu):
            if is_new:
                message_id = letters.identity(entry[0])
                findings.append(Finding(Invariant.USE_AFTER_FREE, vcpu, entry[2], message_id))
            elif self._is_rejected(after, vcpu, entry):
                findings.append(Finding(UNFOUNDED, vcpu, message=letters.identity(entry[0])))
            return
        if self.has_copies and is_new:
            noted = (*seen[:vcpu], seen[vcpu] | bit, *seen[vcpu + 1 :])
            after[self.seen_at] = self.sets.number(noted)
        is_told = FLUSHED_LIVE in self.witnessed
        if not is_told and isinstance(letters.value(entry[0]).message, messages.TlbFlush):
            self.witnessed.add(FLUSHED_LIVE)

    def _is_rejected(self, after: list[int], vcpu: int, entry: QueuedLetter) -> bool:
        queue = self.first_mailbox + vcpu
        step = self.steps.deliver(vcpu + 1, after[vcpu + 1], queue, entry[0])
        return any(operation[0] == DROP for operation in step.operations)

    def handle(self, after: list[int], actor: int, step: Step, findings: list[Finding]) -> None:
        """Take a step: the actor's next state, and its operations."""
        after[actor] = step.state
        self.perform(after, step.operations, findings)

    def perform(
        self, after: list[int], operations: tuple[Operation, ...], findings: list[Finding]
    ) -> None:
        """Do what a step asks for, in order."""
        for operation in operations:
            kind = operation[0]
            if kind == SEND:
                place = self.first_queue + operation[1]
                after[place] = self.contents.append(after[place], (operation[2], 0, False))
            elif kind in (ACK, DROP):
                held = after[self.held_at]
                if held:
                    after[self.held_at] = self.hands.settle(held, operation[1], operation[2])
            elif kind == POST:
                self._post(after, operation, findings)
            elif kind == UNBIND:
                after[self.bound_at] &= ~(1 << operation[1])
            elif kind == FIND:
                findings.append(operation[1])
            elif kind == RAISED:
                findings += judging.lost(self, after, operation)
            elif kind in (SET, CANCEL):
                self._set_timer(after, operation[1], is_set=kind == SET)
            else:
                self._rarer(after, operation, findings)

    def _rarer(self, after: list[int], operation: Operation, findings: list[Finding]) -> None:
        kind = operation[0]
        if kind == REQUEUE:
            self._requeue(after, operation[1], operation[2])
        elif kind == VM_FREED:
            findings += judging.alive(self, after)
        elif kind == WITNESS:
            self.witnessed.add(operation[1])
        elif kind == REACHED:
            self.reached.add(operation[1])
        elif kind == STARTED:
            findings += judging.open_windows(self, after, operation)
        elif kind == PAGE:
            findings += judging.stale(self, after, operation[1])

    def _post(self, after: list[int], operation: Operation, findings: list[Finding]) -> None:
        """Route a request to every bound mailbox; mark it late where the vCPU is freed already."""
        _, letter, erased, expected = operation
        bound = after[self.bound_at]
        unexpected = bound & ~expected & ~sum(1 << vcpu for vcpu in erased)
        if unexpected or expected & ~bound:
            findings.append(Finding(UNACCOUNTED, -1, message=self.steps.letters.identity(letter)))
        for vcpu in range(self.vcpus):
            if bound >> vcpu & 1:
                entry = (letter, 0, self.is_freed(after, vcpu))
                place = self.first_queue + self.first_mailbox + vcpu
                after[place] = self.contents.append(after[place], entry)
                if vcpu in erased and not entry[2]:
                    findings.append(Finding(Invariant.VISIBLE_AFTER_ERASE, vcpu))

    def _requeue(self, after: list[int], queue: int, message_id: str) -> None:
        """Return every delivery of a message to its queue's head, dead-letter it beyond the limit.

        A lost connection may have returned them already.
        """
        held = self.hands.value(after[self.held_at])
        own = [entry for at, entry in held if self.hands.is_of((at, entry), queue, message_id)]
        if own:
            self.given_back.add((queue, message_id))
            after[self.held_at] = self.hands.settle(after[self.held_at], queue, message_id)
        for entry in own:
            self._put_back(after, queue, entry)

    def _put_back(self, after: list[int], queue: int, entry: QueuedLetter) -> None:
        """Return a delivery; the monitor tells the manager of a command that has come too often."""
        place = self.first_queue + queue
        message = self.steps.letters.value(entry[0]).message
        if entry[1] < limits.DELIVERY_LIMIT:
            after[place] = self.contents.put_back(after[place], entry)
        elif isinstance(message, messages.DestroyVcpu):
            stuck = messages.CommandStuck(vm=VM, vcpu=message.vcpu, step=message.step)
            told = self.steps.letters.number(Letter(stuck, None, self.cast.manager.epoch))
            replies = self.first_queue + 1
            after[replies] = self.contents.append(after[replies], (told, 0, False))

    def _set_timer(self, after: list[int], timer: int, *, is_set: bool) -> None:
        timers = set(self.sets.value(after[self.timers_at]))
        if is_set:
            timers.add(timer)
        else:
            timers.discard(timer)
        after[self.timers_at] = self.sets.number(tuple(sorted(timers)))

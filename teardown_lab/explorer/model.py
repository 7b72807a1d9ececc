"""The transition system that is explored: states as flat tuples of numbers, choices as numbers.

A state is (manager, worker of each vCPU, contents of each queue, unsettled deliveries, floating
copies, timers, visible vCPUs, budget, requests seen); each entry is a number of an interning
table, so that states are small, hash fast and compare by value.
"""

from dataclasses import dataclass, replace
from typing import Final

from teardown_lab.explorer.cast import CLIENT, VM, Cast
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.findings import Finding
from teardown_lab.explorer.interning import Interned
from teardown_lab.explorer.steps import (
    ACK,
    CANCEL,
    DROP,
    FIND,
    MANAGER,
    POST,
    RAISED,
    REQUEUE,
    SEND,
    SET,
    UNBIND,
    VM_FREED,
    WITNESS,
    Letter,
    Step,
    Steps,
)
from vm_protocol import limits, messages
from vm_protocol.topology import Mailbox

State = tuple[int, ...]
Entry = tuple[int, int, bool]
"""A message in a queue: its letter, how often it was returned, whether it was posted late."""

DELIVER, RELEASE, TICK, DUPLICATE, REDELIVER, HOLD, DEADLINE, COMPLETE = range(8)
_SPAN: Final = 1 << 16

TICK_TIMER: Final = f"tick/{VM}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice, taken apart: what is done, and to which queue, copy, timer or fault."""

    kind: int
    index: int

    @property
    def number(self) -> int:
        """Return the choice as one number."""
        return self.kind * _SPAN + self.index


def split_choice(number: int) -> Choice:
    """Return the choice that a number stands for."""
    return Choice(*divmod(number, _SPAN))


class Model:
    """The transition system of one ordering in one scenario with one budget of faults."""

    DEADLOCK: Final = Finding("stuck", -1, message="deadlock")
    """Nothing can happen any more, and the teardown has not ended."""

    def __init__(self, cast: Cast, budget: Budget) -> None:
        self.cast = cast
        self.steps = Steps(cast)
        self.vcpus = cast.scenario.vcpus
        self.contents: Interned[tuple[Entry, ...]] = Interned()
        self.tagged: Interned[tuple[tuple[int, Entry], ...]] = Interned()
        self.sets: Interned[tuple[int, ...]] = Interned()
        self.budgets: Interned[Budget] = Interned()
        self.witnessed: set[str] = set()
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
        self._has_copies = bool(budget.duplicate or budget.redeliver)
        self.budget = budget
        self._letter_of: dict[str, int] = {}
        self._freed: dict[tuple[int, int], bool] = {}

    # --- states --------------------------------------------------------------------------

    def initial(self) -> State:
        """Return the state "VM created", with DestroyVm on its way."""
        cast, steps = self.cast, self.steps
        states = [steps.states[MANAGER].number(cast.manager_state)]
        for vcpu, state in enumerate(cast.worker_states):
            states.append(steps.states[vcpu + 1].number(state))
        destroy = steps.letters.number(Letter(cast.destroy, CLIENT, 0))
        empty = self.contents.number(())
        queues = [empty] * self.queue_count
        queues[0] = self.contents.number(((destroy, 0, False),))
        tick = steps.timers.number((MANAGER, TICK_TIMER))
        timers = (tick,) if cast.scenario.ticker else ()
        nothing = self.tagged.number(())
        rest = [
            nothing,
            nothing,
            self.sets.number(timers),
            (1 << self.vcpus) - 1,
            self.budgets.number(self.budget),
            self.sets.number((0,) * self.vcpus if self._has_copies else ()),
        ]
        return (*states, *queues, *rest)

    def is_freed(self, state: State, vcpu: int) -> bool:
        """Tell whether a vCPU's memory is gone."""
        number = state[vcpu + 1]
        known = self._freed.get((vcpu, number))
        if known is None:
            worker = self.steps.states[vcpu + 1].value(number)
            owned = worker.vcpus.get(Mailbox(VM, vcpu))
            known = self._freed[vcpu, number] = owned is not None and owned.freed
        return known

    def is_deadlocked(self, state: State) -> bool:
        """Tell whether nothing can happen although the teardown has not ended."""
        vm = self.steps.states[MANAGER].value(state[MANAGER]).vms[VM]
        return vm.phase not in ("freed", "stuck") and not self.choices(state)

    def has_ticker(self, state: State) -> bool:
        """Tell whether the ticker's timer is set."""
        timers = self.sets.value(state[self.timers_at])
        return any(self.steps.timers.value(timer)[1] == TICK_TIMER for timer in timers)

    # --- choices -------------------------------------------------------------------------

    def choices(self, state: State) -> list[int]:
        """Return what can happen next, deliveries first; a deadline only when nothing else can."""
        found: list[int] = []
        budget = self.budgets.value(state[self.budget_at])
        empty = 0  # the first interned content
        faults = budget.duplicate or budget.redeliver or budget.hold
        for queue in range(self.queue_count):
            if state[self.first_queue + queue] == empty:
                continue
            found.append(queue)
            if faults:
                if budget.redeliver:
                    found.append(REDELIVER * _SPAN + queue)
                if budget.duplicate:
                    found.append(DUPLICATE * _SPAN + queue)
                if budget.hold:
                    found.append(HOLD * _SPAN + queue)
        for index in range(len(self.tagged.value(state[self.floating_at]))):
            found.append(RELEASE * _SPAN + index)
        timers = self.sets.value(state[self.timers_at])
        deadlines: list[int] = []
        for index, timer in enumerate(timers):
            if self.steps.timers.value(timer)[1] != TICK_TIMER:
                deadlines.append(DEADLINE * _SPAN + index)
            elif budget.ticks:
                found.append(TICK * _SPAN)
        if self.cast.scenario.async_pf:
            found += self._completions(state)
        return found or deadlines

    def _completions(self, state: State) -> list[int]:
        found: list[int] = []
        for vcpu in range(self.vcpus):
            owned = self.steps.states[vcpu + 1].value(state[vcpu + 1]).vcpus[Mailbox(VM, vcpu)]
            found += [COMPLETE * _SPAN + vcpu * 16 + fault for fault in owned.faults]
        return found

    def apply(self, state: State, number: int) -> tuple[State, tuple[Finding, ...]]:
        """Return the state after a choice, and what the transition breaks."""
        kind, index = divmod(number, _SPAN)
        after = list(state)
        findings: list[Finding] = []
        if kind in (DELIVER, REDELIVER):
            content = self.contents.value(state[self.first_queue + index])
            entry, rest = content[0], content[1:]
            if kind == REDELIVER:
                self._spend(after, "redeliver")
                again = (entry[0], entry[1] + 1, entry[2])
                rest = (again, *rest)
            after[self.first_queue + index] = self.contents.number(rest)
            self._deliver(after, index, entry, findings)
        elif kind == RELEASE:
            floating = list(self.tagged.value(state[self.floating_at]))
            queue, entry = floating.pop(index)
            after[self.floating_at] = self.tagged.number(tuple(floating))
            self._deliver(after, queue, entry, findings)
        elif kind == DUPLICATE:
            self._spend(after, "duplicate")
            self._float(after, index, self.contents.value(state[self.first_queue + index])[0])
        elif kind == HOLD:
            self._spend(after, "hold")
            content = self.contents.value(state[self.first_queue + index])
            after[self.first_queue + index] = self.contents.number(content[1:])
            self._float(after, index, content[0])
        elif kind == COMPLETE:
            vcpu, fault = divmod(index, 16)
            self._perform(
                after, vcpu + 1, self.steps.complete_fault(vcpu, after[vcpu + 1], fault), findings
            )
        else:
            self._fire(after, kind, index, findings)
        return tuple(after), tuple(findings)

    def _fire(self, after: list[int], kind: int, index: int, findings: list[Finding]) -> None:
        timers = list(self.sets.value(after[self.timers_at]))
        if kind == TICK:
            self._spend(after, "ticks")
            index = timers.index(self.steps.timers.number((MANAGER, TICK_TIMER)))
        timer = timers.pop(index)
        after[self.timers_at] = self.sets.number(tuple(timers))
        actor = self.steps.timers.value(timer)[0]
        self._perform(after, actor, self.steps.fire(timer, after[actor]), findings)

    def _spend(self, after: list[int], name: str) -> None:
        budget = self.budgets.value(after[self.budget_at])
        left = replace(budget, **{name: getattr(budget, name) - 1})
        after[self.budget_at] = self.budgets.number(left)
        self.witnessed.add(name)

    def _float(self, after: list[int], queue: int, entry: Entry) -> None:
        floating = (*self.tagged.value(after[self.floating_at]), (queue, entry))
        after[self.floating_at] = self.tagged.number(tuple(sorted(floating)))

    # --- handling ------------------------------------------------------------------------

    def _deliver(self, after: list[int], queue: int, entry: Entry, findings: list[Finding]) -> None:
        """Let the queue's consumer handle a message; judge a request before asking the core."""
        letter = entry[0]
        vcpu = queue - self.first_mailbox
        actor = vcpu + 1
        if vcpu >= 0:
            self._judge_request(after, vcpu, entry, findings)
        else:
            actor = MANAGER if queue < 2 else (queue - 2) // 2 + 1
        held = self.tagged.value(after[self.held_at])
        after[self.held_at] = self.tagged.number(tuple(sorted((*held, (queue, entry)))))
        step = self.steps.deliver(actor, after[actor], queue, letter)
        self._perform(after, actor, step, findings)
        if actor != MANAGER and "destroys-overlapped" not in self.witnessed:
            self._watch_overlap(after)

    def _watch_overlap(self, after: list[int]) -> None:
        running = 0
        for vcpu in range(self.vcpus):
            worker = self.steps.states[vcpu + 1].value(after[vcpu + 1])
            running += worker.vcpus[Mailbox(VM, vcpu)].running is not None
        if running > 1:
            self.witnessed.add("destroys-overlapped")

    def _judge_request(
        self, after: list[int], vcpu: int, entry: Entry, findings: list[Finding]
    ) -> None:
        message = self.steps.letters.value(entry[0]).message
        seen = self.sets.value(after[self.seen_at])
        bit = 1 << getattr(message, "generation", 0)
        is_new = not seen or not seen[vcpu] & bit
        if not self.is_freed(tuple(after), vcpu):
            if seen and is_new:
                noted = (*seen[:vcpu], seen[vcpu] | bit, *seen[vcpu + 1 :])
                after[self.seen_at] = self.sets.number(noted)
            if isinstance(message, messages.TlbFlush):
                self.witnessed.add("flush-reached-live-vcpu")
        elif is_new:
            found = Finding("use-after-free", vcpu, entry[2], message.identity())
            findings.append(found)

    def _perform(self, after: list[int], actor: int, step: Step, findings: list[Finding]) -> None:
        after[actor] = step.state
        for operation in step.operations:
            kind = operation[0]
            if kind == SEND:
                self._push(after, operation[1], (operation[2], 0, False))
            elif kind in (ACK, DROP):
                self._settle(after, operation[1], operation[2])
            elif kind == POST:
                self._post(after, operation, findings)
            elif kind == UNBIND:
                after[self.bound_at] &= ~(1 << operation[1])
            elif kind == FIND:
                findings.append(operation[1])
            elif kind == RAISED:
                self._judge_lost(after, operation, findings)
            elif kind in (SET, CANCEL):
                self._set_timer(after, operation[1], is_set=kind == SET)
            else:
                self._rarer(after, operation, findings)

    def _rarer(self, after: list[int], operation: tuple[object, ...], found: list[Finding]) -> None:
        kind = operation[0]
        if kind == REQUEUE:
            self._requeue(after, int(str(operation[1])), str(operation[2]))
        elif kind == VM_FREED:
            alive = [v for v in range(self.vcpus) if not self.is_freed(tuple(after), v)]
            found += [Finding("leak", vcpu) for vcpu in alive]
        elif kind == WITNESS and isinstance(operation[1], str):
            self.witnessed.add(operation[1])
        elif kind == WITNESS:
            self._judge_page(after, str(operation[1][1]), found)  # type: ignore[index]

    def _push(self, after: list[int], queue: int, entry: Entry) -> None:
        place = self.first_queue + queue
        content = self.contents.value(after[place])
        after[place] = self.contents.number((*content, entry))

    def _post(self, after: list[int], operation: tuple[int, ...], findings: list[Finding]) -> None:
        """Route a request to every bound mailbox; mark it late where the vCPU is freed already."""
        letter, erased = operation[1], operation[2]
        bound = after[self.bound_at]
        for vcpu in range(self.vcpus):
            if bound >> vcpu & 1:
                late = self.is_freed(tuple(after), vcpu)
                self._push(after, self.first_mailbox + vcpu, (letter, 0, late))
                if vcpu in erased:  # type: ignore[operator]
                    findings.append(Finding("visible-after-erase", vcpu))

    def _judge_lost(
        self, after: list[int], operation: tuple[object, ...], findings: list[Finding]
    ) -> None:
        missed = operation[1]
        assert isinstance(missed, tuple), "compiled so"
        alive = [vcpu for vcpu in missed if not self.is_freed(tuple(after), vcpu)]
        message = str(operation[2])
        findings += [Finding("lost-request", vcpu, message=message) for vcpu in alive]

    def _judge_page(self, after: list[int], page: str, findings: list[Finding]) -> None:
        for vcpu in range(self.vcpus):
            worker = self.steps.states[vcpu + 1].value(after[vcpu + 1])
            owned = worker.vcpus.get(Mailbox(VM, vcpu))
            if owned is not None and owned.in_guest and page in owned.tlb:
                findings.append(Finding("stale-tlb", vcpu, message=page))

    def _settle(self, after: list[int], queue: int, message_id: str) -> None:
        """Take every held delivery of a message off, as Ack and Reject do."""
        letters = self.steps.letters
        held = tuple(
            (where, entry)
            for where, entry in self.tagged.value(after[self.held_at])
            if where != queue or letters.value(entry[0]).message.identity() != message_id
        )
        after[self.held_at] = self.tagged.number(held)

    def _requeue(self, after: list[int], queue: int, message_id: str) -> None:
        """Return a delivery to its queue's head; beyond the limit it is dead-lettered.

        The monitor then tells the manager that the command is stuck.
        """
        letters = self.steps.letters
        for where, (letter, returns, late) in self.tagged.value(after[self.held_at]):
            message = letters.value(letter).message
            if where != queue or message.identity() != message_id:
                continue
            self._settle(after, queue, message_id)
            if returns + 1 <= limits.DELIVERY_LIMIT:
                place = self.first_queue + queue
                content = self.contents.value(after[place])
                after[place] = self.contents.number(((letter, returns + 1, late), *content))
            elif isinstance(message, messages.DestroyVcpu):
                stuck = messages.CommandStuck(vm=VM, vcpu=message.vcpu, step=message.step)
                told = letters.number(Letter(stuck, None, self.cast.manager.epoch))
                self._push(after, 1, (told, 0, False))
            return

    def _set_timer(self, after: list[int], timer: int, *, is_set: bool) -> None:
        timers = set(self.sets.value(after[self.timers_at]))
        name = self.steps.timers.value(timer)[1]
        if is_set and not name.startswith("quarantine/"):
            timers.add(timer)
        else:
            timers.discard(timer)
        after[self.timers_at] = self.sets.number(tuple(sorted(timers)))

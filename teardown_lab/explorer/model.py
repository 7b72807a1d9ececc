"""The transition system that is explored: states as flat tuples of numbers, choices as numbers.

A state is (manager, worker of each vCPU, contents of each queue, unsettled deliveries, floating
copies, timers, visible vCPUs, budget, requests seen); each entry is a number of an interning
table. The package's docstring tells how the model works: states, moves, what is left out and why.
"""

from typing import Final

from teardown_lab.explorer.cast import CLIENT, VM
from teardown_lab.explorer.choice import (
    COMPLETE,
    CRASH,
    CRASHED,
    DEADLINE,
    DELIVER,
    DUPLICATE,
    HOLD,
    LOSE,
    REDELIVER,
    RELEASE,
    SPAN,
    STALE,
    TICK,
    VANISH,
)
from teardown_lab.explorer.faults import LOSABLE
from teardown_lab.explorer.findings import Finding
from teardown_lab.explorer.steps import MANAGER, Letter
from teardown_lab.explorer.superseding import Superseding
from vm_protocol import limits
from vm_protocol.invariants import Invariant
from vm_protocol.topology import Mailbox

State = tuple[int, ...]

_FAULTS: Final = ((REDELIVER, "redeliver"), (DUPLICATE, "duplicate"), (HOLD, "hold"))


class Model(Superseding):
    """The transition system of one ordering in one scenario with one budget of faults."""

    DEADLOCK: Final = Finding(Invariant.STUCK, -1, message="deadlock")
    """Nothing can happen any more, and the teardown has not ended."""

    # --- states --------------------------------------------------------------------------

    def initial(self) -> State:
        """Return the state "VM created", with DestroyVm on its way."""
        cast, steps = self.cast, self.steps
        states = [steps.states[MANAGER].number(cast.manager_state)]
        for vcpu, state in enumerate(cast.worker_states):
            states.append(steps.states[vcpu + 1].number(state))
        destroy = steps.letters.number(Letter(cast.destroy, CLIENT, 0))
        queues = [0] * self.queue_count
        queues[0] = self.contents.append(0, (destroy, 0, False))
        timers = (self.ticker,) if cast.scenario.ticker else ()
        rest = [
            0,
            0,
            self.sets.number(timers),
            (1 << self.vcpus) - 1,
            self.budgets.number(self.budget),
            self.sets.number((0,) * self.vcpus if self.has_copies else ()),
        ]
        return (*states, *queues, *rest)

    def is_ended(self, state: State) -> bool:
        """Tell whether the teardown has ended: the VM is freed, or a step is stuck."""
        phase: str = self.steps.states[MANAGER].value(state[MANAGER]).vms[VM].phase
        return phase in ("freed", "stuck")

    def has_ticker(self, state: State) -> bool:
        """Tell whether the ticker's timer is set."""
        return self.ticker in self.sets.value(state[self.timers_at])

    # --- choices -------------------------------------------------------------------------

    def choices(self, state: State, only: int | None = None) -> list[int]:
        """Return what can happen next, deliveries first; a deadline only when nothing else can.

        With `only`, just what can happen to the head of that queue.
        """
        if only is not None:
            faults = [kind * SPAN + only for kind in self._faults(state)]
            return [only, *faults, *self._losses(state, [only])]
        found = [q for q, content in enumerate(state[self.first_queue : self.held_at]) if content]
        losses = self._losses(state, found)
        found += [kind * SPAN + queue for kind in self._faults(state) for queue in found]
        found += losses
        floating = self.hands.value(state[self.floating_at])
        found += [
            RELEASE * SPAN + index
            for index, each in enumerate(floating)
            if self.may_arrive(state, each)
        ]
        deadlines: list[int] = []
        for index, timer in enumerate(self.sets.value(state[self.timers_at])):
            if timer != self.ticker:
                deadlines.append(DEADLINE * SPAN + index)
            elif self.budgets.value(state[self.budget_at]).ticks:
                found.append(TICK * SPAN)
        if self.cast.scenario.async_pf:
            found += self._completions(state)
        if self.may_lose(state):
            held = self.hands.value(state[self.held_at])
            holders = {self.consumer_of(queue) for queue, _ in held}
            found += [LOSE * SPAN + actor for actor in sorted(holders)]
        found = found or deadlines
        take_overs = self.crashes(state, found) if self.may_crash(state) else []
        if self.may_be_superseded(state):
            take_overs += self.stale_steps(state, found)
        return [*found, *take_overs] if take_overs else found

    def may_lose(self, state: State) -> bool:
        """Tell whether a connection may still be lost."""
        spare = self.budget.redeliver and self.budgets.value(state[self.budget_at]).redeliver
        return bool(spare)

    def _faults(self, state: State) -> list[int]:
        """Return the faults that may still meet a queue's head."""
        if not self.budget.meet_heads:
            return []
        budget = self.budgets.value(state[self.budget_at])
        return [kind for kind, name in _FAULTS if getattr(budget, name)]

    def _losses(self, state: State, queues: list[int]) -> list[int]:
        """Return what may get lost of the heads of some queues."""
        if not self.budget.drop or not self.budgets.value(state[self.budget_at]).drop:
            return []
        found: list[int] = []
        for queue in queues:
            (letter, _, _), _ = self.contents.pop(state[self.first_queue + queue])
            if isinstance(self.steps.letters.value(letter).message, LOSABLE):
                found.append(VANISH * SPAN + queue)
        return found

    def _completions(self, state: State) -> list[int]:
        found: list[int] = []
        for vcpu in range(self.vcpus):
            owned = self.steps.states[vcpu + 1].value(state[vcpu + 1]).vcpus[Mailbox(VM, vcpu)]
            found += [COMPLETE * SPAN + vcpu * limits.FAULTS_MAX + fault for fault in owned.faults]
        return found

    def apply(self, state: State, number: int) -> tuple[State, tuple[Finding, ...]]:
        """Return the state after a choice, and what the transition breaks."""
        after = list(state)
        findings: list[Finding] = []
        if number >= STALE:
            self.supersede(after, number - STALE)
            return tuple(after), ()
        if number >= CRASHED:
            crash, number = divmod(number, CRASHED)
            self.begin_crash(after, out=crash - 1)
        kind, index = divmod(number, SPAN)
        if kind == DELIVER:
            place = self.first_queue + index
            entry, after[place] = self.contents.pop(state[place])
            self.deliver(after, index, entry, findings)
        elif kind in (REDELIVER, DUPLICATE, HOLD):
            self._break(after, kind, index, findings)
        elif kind == RELEASE:
            (queue, entry), left = self.hands.take(state[self.floating_at], index)
            after[self.floating_at] = left
            self.deliver(after, queue, entry, findings)
        elif kind == LOSE:
            self.spend(after, "redeliver")
            self.given_back.clear()
            self.give_back(after, self.held_by(after, index))
        elif kind == CRASH:
            self.begin_crash(after)
        elif kind == VANISH:
            self.spend(after, "drop")
            place = self.first_queue + index
            _, after[place] = self.contents.pop(state[place])
        elif kind == COMPLETE:
            vcpu, fault = divmod(index, limits.FAULTS_MAX)
            step = self.steps.complete_fault(vcpu, after[vcpu + 1], fault)
            self.handle(after, vcpu + 1, step, findings)
        else:
            self.fire(after, kind, index, findings)
        return tuple(after), tuple(findings)

    def _break(self, after: list[int], kind: int, queue: int, findings: list[Finding]) -> None:
        """Let a fault meet the head of a queue."""
        self.spend(after, dict(_FAULTS)[kind])
        place = self.first_queue + queue
        entry, rest = self.contents.pop(after[place])
        if kind == REDELIVER:
            kept = self.held_by(after, self.consumer_of(queue))
            self.given_back.clear()
            after[place] = rest
            self.deliver(after, queue, entry, findings)
            self.give_back(after, ((queue, entry), *kept))
            return
        if kind == HOLD:
            after[place] = rest
        after[self.floating_at] = self.hands.add(after[self.floating_at], queue, entry)

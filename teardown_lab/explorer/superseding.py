"""A manager is superseded and does not know it yet: `stale:N` of the budget.

Another manager takes over, with the state that the log gives it, and what the first one held comes
back. The first one then handles one more input. Its entry stands in the log behind its successor's
election, so nobody counts it; what it sends is on its way all the same, and comes at any later time
to a worker that has heard of the successor. Such a worker must refuse it. It must not refuse what
the first manager sent before: that counts, and nobody sends it again.

Letters say which is which by epoch, entry and ended epochs, as real messages do (Letter). What the
model does not have is a stale message that comes before anything of the successor's: no worker can
tell it from a good one. On a real broker it does not come about, as the successor is elected when
the connection of the first one is gone, over which the confirm of its entry would have to come.
The same holds for unbinds, which no fence can refuse: the first manager's are left out.
"""

from dataclasses import replace

from teardown_lab.explorer.boxes import Tagged
from teardown_lab.explorer.cast import Cast
from teardown_lab.explorer.choice import RELEASE, SPAN, STALE
from teardown_lab.explorer.crashes import Crashing
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.findings import Finding
from teardown_lab.explorer.operations import POST, SEND, Operation
from teardown_lab.explorer.steps import MANAGER, Step
from vm_protocol.ordering import ForEachVcpu

_BEHIND = 1
"""The entry behind the end of an epoch (Letter)."""


class Superseding(Crashing):
    """What a superseded manager does to a state."""

    def __init__(self, cast: Cast, budget: Budget) -> None:
        super().__init__(cast, budget)
        self._signatures: dict[tuple[int, int, int], Step] = {}
        loops = (each for each in cast.ordering.steps if isinstance(each, ForEachVcpu))
        is_given_back = any("zap_all_until_empty" in each.for_each_vcpu.steps for each in loops)
        self._may_leave = not is_given_back and not budget.redeliver

    def may_be_superseded(self, state: tuple[int, ...]) -> bool:
        """Tell whether the manager may still be superseded."""
        return bool(self.budget.stale and self.budgets.value(state[self.budget_at]).stale)

    def stale_steps(self, state: tuple[int, ...], possible: list[int]) -> list[int]:
        """Return the steps that a manager may take after it was superseded, where it sends any."""
        steps = ((number, self.step_of(state, number)) for number in possible)
        return [STALE + number for number, step in steps if step is not None and step.effects]

    def supersede(self, after: list[int], number: int) -> None:
        """Let another manager take over, and the first one take the step that a choice begins."""
        step = self.step_of(tuple(after), number)
        assert step is not None, "a choice that begins no step of the manager's is not offered"
        sent = self._signed(step, self._ended(after), _BEHIND)
        self.spend(after, "stale")
        for operation in sent.effects:
            for queue in self._targets(after, operation):
                entry = (operation[1] if operation[0] == POST else operation[2], 0, False)
                after[self.floating_at] = self.hands.add(after[self.floating_at], queue, entry)
        self.take_over(after)

    def _targets(self, after: list[int], operation: Operation) -> tuple[int, ...]:
        if operation[0] == POST:
            bound = after[self.bound_at]
            return tuple(self.first_mailbox + v for v in range(self.vcpus) if bound >> v & 1)
        return (operation[1],) if operation[0] == SEND else ()

    def may_arrive(self, state: tuple[int, ...], floating: Tagged) -> bool:
        """Tell whether a floating message may be delivered: a stale one after the successor's."""
        queue, entry = floating
        if not self.is_stale(entry):
            return True
        actor = self.consumer_of(queue)
        knows = self.steps.states[actor].value(state[actor]).ended
        return self.steps.letters.value(entry[0]).epoch in knows

    def refused(self, state: tuple[int, ...]) -> int | None:
        """Return the choice that a stale message is refused, None where none can be.

        A copy of the running command is left alone, and settled together with that one: it is as
        good as refused unless the command is given back before it ends.
        """
        if not self.budget.stale:
            return None
        for index, (queue, entry) in enumerate(self.hands.value(state[self.floating_at])):
            actor = self.consumer_of(queue)
            if self.is_stale(entry) and self.may_arrive(state, (queue, entry)):
                step = self.steps.deliver(actor, state[actor], queue, entry[0])
                is_left = self._may_leave and not step.operations and step.state == state[actor]
                if step.refuses_stale or is_left:
                    return RELEASE * SPAN + index
        return None

    def handle(self, after: list[int], actor: int, step: Step, findings: list[Finding]) -> None:
        """Take a step; what a manager sends says which epochs are over."""
        ended = self._ended(after) if actor == MANAGER and self.budget.stale else 0
        super().handle(after, actor, self._signed(step, ended) if ended else step, findings)

    def _ended(self, after: list[int]) -> int:
        """Return how many managers were superseded."""
        return self.budget.stale - self.budgets.value(after[self.budget_at]).stale

    def _signed(self, step: Step, ended: int, entry: int = 0) -> Step:
        """Return a manager's step with its letters as the manager after so many others writes them.

        The same step is asked for again and again, and steps are never forgotten.
        """
        key = (id(step), ended, entry)
        known = self._signatures.get(key)
        if known is None:
            signed = [self._sign(each, ended, entry) for each in step.operations]
            known = self._signatures[key] = step.with_operations(signed)
        return known

    def _sign(self, operation: Operation, ended: int, entry: int) -> Operation:
        place = {SEND: 2, POST: 1}.get(operation[0])
        if place is None:
            return operation
        letters, first = self.steps.letters, self.cast.manager.epoch
        over = tuple((first + number, 0) for number in range(ended))
        plain = letters.value(operation[place])
        letter = letters.number(replace(plain, epoch=first + ended, entry=entry, ended=over))
        return (*operation[:place], letter, *operation[place + 1 :])

"""A model whose successors know less: they perform any number of earlier entries again.

A manager notes only now and then up to which entry all effects are out. The model of `crash:N`
knows that of every entry but the last; here a crash also says how many before that one come again.
"""

from typing import Final

from teardown_lab.explorer.cast import assemble
from teardown_lab.explorer.choice import CRASH, CRASHED, SPAN
from teardown_lab.explorer.findings import Finding
from teardown_lab.explorer.interning import Interned
from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.operations import POST, Operation
from teardown_lab.explorer.schedule import Schedule
from teardown_lab.explorer.steps import MANAGER, Step

_EARLIER: Final = 256
"""`out` of a crash plus so many times the number of earlier entries."""

_NOTHING_LOGGED: Final = 255
"""`out` where the manager crashes before it has logged the input."""

Log = tuple[tuple[Operation, ...], ...]


class Forgetful(Model):
    """The last number of a state is the log: the effects of each entry since the beginning."""

    def __init__(self, begin: Schedule) -> None:
        super().__init__(assemble(begin.ordering, begin.scenario), begin.faults)
        self._logs: Interned[Log] = Interned()
        self._logs.number(())
        self._log_at = self.seen_at + 1
        self._earlier: Log = ()

    def initial(self) -> State:
        return (*super().initial(), 0)

    def crashes(self, state: State, possible: list[int]) -> list[int]:
        """Return each crash once for every number of earlier entries."""
        found = super().crashes(state, possible)
        at_once = [CRASHED * (_NOTHING_LOGGED + 1) + CRASH * SPAN] if possible else []
        known = len(self._logs.value(state[self._log_at]))
        return [
            each + CRASHED * _EARLIER * count
            for each in [*(each for each in found if each >= CRASHED), *at_once]
            for count in range(known + 1)
        ]

    def apply(self, state: State, number: int) -> tuple[State, tuple[Finding, ...]]:
        """Return the state after a choice; a crash forgets which entries were performed."""
        crash, plain = divmod(number, CRASHED)
        if not crash:
            return super().apply(state, number)
        count, out = divmod(crash - 1, _EARLIER)
        log = self._logs.value(state[self._log_at])
        self._earlier = log[len(log) - count :]
        if out != _NOTHING_LOGGED:
            after, findings = super().apply(state, CRASHED * (out + 1) + plain)
        else:
            changed = list(state)
            self.begin_crash(changed)
            after, findings = tuple(changed), ()
        return (*after[: self._log_at], 0), findings

    def take_over(self, after: list[int]) -> None:
        """Let the successor perform the earlier entries again, before the last one."""
        super().take_over(after)
        for effects in self._earlier:
            for effect in effects:
                # A request that comes again reaches who is bound by now.
                bound = after[self.bound_at]
                is_post = effect[0] == POST
                again = (POST, *effect[1:3], effect[3] & bound) if is_post else effect
                self.perform(after, (again,), [])

    def handle(self, after: list[int], actor: int, step: Step, findings: list[Finding]) -> None:
        """Take a step, and log what it let out."""
        super().handle(after, actor, step, findings)
        if actor == MANAGER and step.effects and self.may_crash(tuple(after)):
            log = self._logs.value(after[self._log_at])
            after[self._log_at] = self._logs.number((*log, step.effects))

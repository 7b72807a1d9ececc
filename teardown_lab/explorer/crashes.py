"""The manager crashes, and another one takes over: `crash:N` of the budget.

A manager logs an input before anything of what it did with it goes out, and another manager's
memory is the fold of that log (docs/explorer.md). Here one delivery or timer is one entry of the
log. So a crash leaves one of these behind:

- *Before the entry is logged* (CRASH) nothing has happened. What the manager held comes back to the
  heads of its queues; so does the input, which had never left its queue here.
- *After it is logged*, and `out` of its effects (publishes, unbinds) were performed: the successor
  has the state after the input, and performs all effects of the entry, so that what was out already
  is out twice. No delivery was settled, as acks wait for the effects, so the input comes back, too.
  `out` is one larger than the number of effects where also the acks were out: then the input does
  not come back, and all effects are out twice.

Timers stay as they are: the successor sets again those that its state waits for. All of this is one
move. A successor that comes later differs in nothing: nobody else puts messages into the queues
that a manager's go to, so these are only delivered later, which a queue may be in any case.
Crashes are offered beside what else can happen, never as the only thing: a deadline fires, and a
deadlock is one, although the manager could crash.
"""

from typing import Final

from teardown_lab.explorer.choice import (
    CRASH,
    CRASHED,
    DEADLINE,
    DELIVER,
    RELEASE,
    SPAN,
    TICK,
)
from teardown_lab.explorer.findings import Finding
from teardown_lab.explorer.handling import Handling
from teardown_lab.explorer.operations import POST, Operation
from teardown_lab.explorer.steps import MANAGER, Step

_REPLIES: Final = 1
"""The manager's last queue, by number."""


class Crashing(Handling):
    """What a manager's crash does to a state."""

    _out: int | None = None

    def may_crash(self, state: tuple[int, ...]) -> bool:
        """Tell whether the manager may still crash."""
        return bool(self.budget.crash and self.budgets.value(state[self.budget_at]).crash)

    def crashes(self, state: tuple[int, ...], possible: list[int]) -> list[int]:
        """Return the crashes that can happen in a state, given what else can."""
        found: list[int] = []
        for number in possible:
            step = self.step_of(state, number)
            if step is not None:
                ways = len(step.effects) + 1 + bool(step.settles)
                found += [CRASHED * (out + 1) + number for out in range(ways)]
        if possible and self.held_by(state, MANAGER):
            found.append(CRASH * SPAN)
        return found

    def step_of(self, state: tuple[int, ...], number: int) -> Step | None:
        """Return the manager's step that a choice begins, None where it begins none."""
        kind, index = divmod(number, SPAN)
        if kind in (TICK, DEADLINE):
            timers = self.sets.value(state[self.timers_at])
            timer = self.ticker if kind == TICK else timers[index]
            is_own = self.steps.timers.value(timer)[0] == MANAGER
            return self.steps.fire(timer, state[MANAGER]) if is_own else None
        if kind == DELIVER and index <= _REPLIES:
            (letter, _, _), _ = self.contents.pop(state[self.first_queue + index])
            return self.steps.deliver(MANAGER, state[MANAGER], index, letter)
        if kind == RELEASE:
            queue, (letter, _, _) = self.hands.value(state[self.floating_at])[index]
            if queue <= _REPLIES:
                return self.steps.deliver(MANAGER, state[MANAGER], queue, letter)
        return None

    def begin_crash(self, after: list[int], out: int | None = None) -> None:
        """Let the manager crash: at once, or in the step that comes now, with so many effects out.

        At once means that nothing is logged.
        """
        self.spend(after, "crash")
        self._out = out
        if out is None:
            self.take_over(after)

    def handle(self, after: list[int], actor: int, step: Step, findings: list[Finding]) -> None:
        """Take a step, with the crash that was begun."""
        out, self._out = self._out, None
        if out is None:
            super().handle(after, actor, step, findings)
        else:
            self._crash(after, step, out, findings)

    def _crash(self, after: list[int], step: Step, out: int, findings: list[Finding]) -> None:
        """Let the manager crash with so many effects of a step out, and another one take over."""
        again = step.effects[:out]
        self.perform(after, again, findings)
        if out > len(step.effects):
            self.perform(after, step.settles, findings)
        self.take_over(after)
        after[MANAGER] = step.state
        self.perform(after, self._repeated(after, step, again), findings)

    def take_over(self, after: list[int]) -> None:
        """Let all that the manager held come back to the heads of its queues."""
        self.given_back.clear()
        self.give_back(after, self.held_by(after, MANAGER))

    def _repeated(
        self, after: list[int], step: Step, again: tuple[Operation, ...]
    ) -> tuple[Operation, ...]:
        """Return a step's operations; a request that is posted again reaches who is still bound."""
        bound = after[self.bound_at]
        return tuple(
            (POST, *each[1:3], each[3] & bound) if each[0] == POST and each in again else each
            for each in step.operations
        )

"""Exhaustive, breadth first: every reachable state, and the shortest way to each finding."""

from array import array
from functools import partial

from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.reduction import Reduction
from teardown_lab.explorer.strategy import CTRL_C, Bounds, Explored, Meter, Path, Progress


class Known:
    """The states that were reached, numbered by discovery, and how each was reached first."""

    def __init__(self, initial: State) -> None:
        self._numbers: dict[State, int] = {initial: 0}
        self._origins = array("q", [-1])
        self._choices = array("q", [-1])

    def add(self, state: State, origin: int, choice: int) -> bool:
        """Take a state; tell whether it is new."""
        number = len(self._origins)
        if self._numbers.setdefault(state, number) != number:
            return False
        self._origins.append(origin)
        self._choices.append(choice)
        return True

    def path_to(self, number: int) -> Path:
        """Return the choices that lead to a state, from the initial one."""
        choices: list[int] = []
        while number > 0:
            choices.append(self._choices[number])
            number = self._origins[number]
        return tuple(reversed(choices))

    def path_through(self, number: int, choice: int) -> Path:
        """Return the choices that lead to a state, and one more."""
        return (*self.path_to(number), choice)


def explore(model: Model, bounds: Bounds, progress: Progress) -> Explored:
    """Visit every state once, level by level (teardown_lab.explorer.strategy.Strategy)."""
    explored = Explored(is_reduced=bounds.reduce)
    search = _Search(model, explored, Meter(bounds, progress))
    try:
        while search.level and not explored.stopped_by:
            search.go_deeper()
            explored.depth += bool(search.level)
            if bounds.first_only and explored.paths:
                explored.stopped_by = "stopped at the first finding"
        explored.complete = not explored.stopped_by
    except KeyboardInterrupt:
        explored.stopped_by = CTRL_C
    explored.witnessed = frozenset(model.witnessed)
    explored.reached = frozenset(model.reached)
    return explored


class _Search:
    """One search; `level` are the states of one depth, the first of them has number `first`."""

    def __init__(self, model: Model, explored: Explored, meter: Meter) -> None:
        initial = model.initial()
        self._model = model
        self._explored = explored
        self._meter = meter
        self._reduction = Reduction(model) if explored.is_reduced else None
        self._known = Known(initial)
        self._first = 0
        self.level = [initial]
        explored.saw(hash(initial))

    def go_deeper(self) -> None:
        """Take every transition of every state of this level."""
        explored, following = self._explored, []
        for number, state in enumerate(self.level, self._first):
            goes_on = False
            for choice in self._choices(state):
                after, findings = self._model.apply(state, choice)
                explored.transitions += 1
                goes_on = goes_on or after != state
                for finding in findings:
                    path = partial(self._known.path_through, number, choice)
                    explored.found(finding, path)
                if self._known.add(after, number, choice):
                    explored.saw(hash(after))
                    following.append(after)
            # Nothing is left to happen, or only a deadline that is set again whenever it fires.
            if not goes_on and not self._model.is_ended(state):
                explored.found(Model.DEADLOCK, partial(self._known.path_to, number))
            explored.stopped_by = self._meter.stop(explored)
            if explored.stopped_by:
                break
        self._first += len(self.level)
        self.level = following

    def _choices(self, state: State) -> list[int]:
        chooser = self._reduction or self._model
        return chooser.choices(state)

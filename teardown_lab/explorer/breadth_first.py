"""Exhaustive, breadth first: every reachable state, and the shortest way to each finding."""

from functools import partial

from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.reduction import Reduction, may_reduce
from teardown_lab.explorer.strategy import Bounds, Explored, Meter, Path, Progress

Parents = dict[State, tuple[State, int] | None]


def explore(model: Model, bounds: Bounds, progress: Progress) -> Explored:
    """Visit every state once, level by level (teardown_lab.explorer.strategy.Strategy)."""
    explored = Explored(is_reduced=bounds.reduce and may_reduce(model))
    reduction = Reduction(model) if explored.is_reduced else None
    meter = Meter(bounds, progress)
    initial = model.initial()
    parents: Parents = {initial: None}
    explored.saw(hash(initial))
    level = [initial]
    try:
        while level and not explored.stopped_by:
            level = _next_level(model, reduction, level, parents, explored, meter)
            explored.depth += bool(level)
            if bounds.first_only and explored.paths:
                explored.stopped_by = "stopped at the first finding"
        explored.complete = not explored.stopped_by
    except KeyboardInterrupt:
        explored.stopped_by = "stopped by Ctrl-C"
    explored.witnessed = frozenset(model.witnessed)
    return explored


def _next_level(
    model: Model,
    reduction: Reduction | None,
    level: list[State],
    parents: Parents,
    explored: Explored,
    meter: Meter,
) -> list[State]:
    following: list[State] = []
    for state in level:
        only = reduction.only(state) if reduction is not None else None
        for choice in model.choices(state) if only is None else (only,):
            after, findings = model.apply(state, choice)
            explored.transitions += 1
            for finding in findings:
                explored.found(finding, partial(_path_through, parents, state, choice))
            if after not in parents:
                parents[after] = (state, choice)
                explored.saw(hash(after))
                following.append(after)
        explored.stopped_by = meter.stop(explored)
        if explored.stopped_by:
            return []
        if model.is_deadlocked(state):
            explored.found(model.DEADLOCK, partial(path_to, parents, state))
    return following


def _path_through(parents: Parents, state: State, choice: int) -> Path:
    return (*path_to(parents, state), choice)


def path_to(parents: Parents, state: State) -> Path:
    """Return the choices that lead to a state, from the initial one."""
    choices: list[int] = []
    came = parents[state]
    while came is not None:
        before, choice = came
        choices.append(choice)
        came = parents[before]
    return tuple(reversed(choices))

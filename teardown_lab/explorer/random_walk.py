"""Random walks: from the start to an end, again and again, until a bound; never complete.

For what is too large to exhaust. A walk misses a race of d deviations among b choices at each of
its steps with a chance that falls only with the number of walks: absence proves nothing.
"""

import random
from functools import partial

from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.strategy import CTRL_C, Bounds, Explored, Meter, Progress

WALK_STEPS_MAX = 100_000
"""Transitions of one walk; a 2007 loop of 20 returns for 64 vCPUs stays below."""

STALE_WALKS_MAX = 1_000
"""Walks in a row that see no new state, after which more are a waste of time."""


def explore(model: Model, bounds: Bounds, progress: Progress) -> Explored:
    """Walk at random, seeded, until out of bounds (teardown_lab.explorer.strategy.Strategy)."""
    explored = Explored()
    meter = Meter(bounds, progress)
    generator = random.Random(bounds.seed)
    seen: set[State] = set()
    stale_count = 0
    try:
        while not explored.stopped_by:
            seen_before = len(seen)
            _walk(model, generator, seen, explored, meter)
            stale_count = stale_count + 1 if len(seen) == seen_before else 0
            if stale_count == STALE_WALKS_MAX and not explored.stopped_by:
                explored.stopped_by = f"stopped after {stale_count} walks without a new state"
    except KeyboardInterrupt:
        explored.stopped_by = CTRL_C
    explored.witnessed = frozenset(model.witnessed)
    explored.reached = frozenset(model.reached)
    return explored


def _walk(
    model: Model, generator: random.Random, seen: set[State], explored: Explored, meter: Meter
) -> None:
    state = model.initial()
    path: list[int] = []
    choices: list[int] = []
    for _ in range(WALK_STEPS_MAX):
        if state not in seen:
            seen.add(state)
            explored.saw(hash(state))
        explored.stopped_by = meter.stop(explored)
        choices = model.choices(state)
        if not choices or explored.stopped_by:
            break
        choice = generator.choice(choices)
        path.append(choice)
        state, findings = model.apply(state, choice)
        explored.transitions += 1
        explored.depth = max(explored.depth, len(path))
        for finding in findings:
            explored.found(finding, partial(tuple, path))
    if not choices and not model.is_ended(state):
        explored.found(model.DEADLOCK, partial(tuple, path))

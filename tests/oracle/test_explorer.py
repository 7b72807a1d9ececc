"""The explorer against the oracle: all schedules of small orderings, and the one in order."""

import random
from collections.abc import Iterator

import pytest
from oracle import generator
from oracle.comparison import Plain, as_ordering, as_scenario
from oracle.mutations import RACES
from oracle.oracle import Expectation, expected
from support.exploring import answer, judged_kinds, schedule

from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.schedule import Schedule, turns
from teardown_lab.explorer.stage import Stage
from teardown_lab.explorer.strategy import Bounds

pytestmark = pytest.mark.slow

CHUNKS, CASES_OF_CHUNK = 6, 40
WALKS = 60
STATES_MAX = 20_000
NOBODY = -1
AT_ONCE = "vCPUs are destroyed at once"


def cases(number: int) -> Iterator[tuple[Plain, Plain, Expectation]]:
    """Yield seeded cases of at most two vCPUs, one after the other."""
    rng = random.Random(f"explorer-{number}")
    for _ in range(CASES_OF_CHUNK):
        ordering, scenario = generator.ordering(rng), generator.scenario(rng, vcpus_max=2)
        wanted = expected(ordering, scenario)
        if AT_ONCE not in wanted.racy:
            yield ordering, scenario, wanted


@pytest.mark.parametrize("number", range(CHUNKS))
def test_every_schedule_ends_as_the_oracle_says_or_races(number: int) -> None:
    """Where nothing races, all schedules end alike; else the undisturbed one is among them."""
    compared = 0
    for ordering, scenario, wanted in cases(number):
        faults = Budget(ticks=int(scenario["ticker"]))
        begin = schedule(as_ordering(ordering), as_scenario(scenario), faults)

        found = answer(begin, Bounds(STATES_MAX))

        if not found.explored.complete:
            continue
        compared += 1
        kinds = {(name, NOBODY if vcpu is None else vcpu) for name, vcpu in +wanted.violations}
        told = f"ordering={ordering!r} scenario={scenario!r}"
        explored = {(name, vcpu) for name, vcpu, _ in found.explored.paths}
        assert kinds <= explored, told
        assert wanted.racy or kinds == explored, told
        assert (found.verdict.verdict == "violated") == bool(explored), told
        assert found.verdict.disagreements == (), told
    assert compared > CASES_OF_CHUNK // 2


@pytest.mark.parametrize("reason", RACES)
def test_what_the_oracle_calls_racy_ends_in_more_than_one_way(reason: str) -> None:
    ordering, scenario = RACES[reason]
    faults = Budget(ticks=int(scenario["ticker"]))
    begin = schedule(as_ordering(ordering), as_scenario(scenario), faults)
    rng = random.Random(reason)

    ends = {walk_to_its_end(begin, rng) for _ in range(WALKS)}

    assert len(ends) > 1


def walk_to_its_end(begin: Schedule, rng: random.Random) -> frozenset[tuple[str, int]]:
    """Take one way through the states, choice by choice; return what the checker finds there."""
    model = begin.model()
    state, path = model.initial(), []
    while choices := model.choices(state):
        path.append(rng.choice(choices))
        state, _ = model.apply(state, path[-1])
    stage = Stage(begin)
    for turn in turns(model, tuple(path)):
        stage.take(turn)
    stage.finish()
    return frozenset(judged_kinds(stage.judgement()))

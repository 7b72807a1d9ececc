"""Three witnesses of one protocol: the explorer, the simulated run, the checker on each history."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.exploring import explored, found_kinds, judged_kinds, schedule
from support.orderings import orderings, scenarios
from support.simulated import run

from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.model import Model
from teardown_lab.explorer.schedule import Schedule, turns
from teardown_lab.explorer.stage import Stage
from teardown_lab.explorer.strategy import Bounds, Path
from teardown_lab.explorer.verdict import conclude
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.spread, pytest.mark.slow]

WALKS = 6
STATES_MAX = 8_000
"""Of an exploration that random walks are compared with; larger ones are given up."""

AGREEMENT = settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])


@AGREEMENT
@given(order=orderings(), scenario=scenarios(vcpus_max=3))
def test_what_can_end_in_one_way_only_ends_so_in_the_simulator(
    order: Ordering, scenario: Scenario
) -> None:
    every = explored(schedule(order, scenario, Budget()))

    finished = run(order, scenario, workers=scenario.vcpus)

    assert every.complete
    assert found_kinds(every) == judged_kinds(finished.judgement)


@settings(AGREEMENT, max_examples=25)
@given(order=orderings(racy=True), scenario=scenarios(racy=True, vcpus_max=2))
def test_the_checker_confirms_every_finding_on_its_schedules_history(
    order: Ordering, scenario: Scenario
) -> None:
    begin = schedule(order, scenario, Budget(ticks=int(scenario.ticker)))
    every = explored(begin, Bounds(STATES_MAX))

    verdict = conclude(begin, every)

    assert verdict.disagreements == ()
    assert {(str(each.invariant), each.vcpu) for each in verdict.violations} == {
        (invariant, None if vcpu < 0 else vcpu) for invariant, vcpu in found_kinds(every)
    }


def walk(model: Model, choose: st.DataObject) -> Path:
    """Return a way from the start to an end, drawn choice by choice."""
    generator = choose.draw(st.randoms(use_true_random=False))
    state, path = model.initial(), []
    while choices := model.choices(state):
        path.append(generator.choice(choices))
        state, _ = model.apply(state, path[-1])
    return tuple(path)


def play(begin: Schedule, model: Model, path: Path) -> Stage:
    """Return the stage on which a path was played to its end."""
    stage = Stage(begin)
    for turn in turns(model, path):
        stage.take(turn)
    stage.finish()
    return stage


@settings(AGREEMENT, max_examples=70)
@given(
    order=orderings(racy=True),
    scenario=scenarios(racy=True, vcpus_max=2),
    inside=st.sets(st.integers(0, 1)),
    flush_wait=st.sampled_from(["in_guest", "all"]),
    fault=st.sampled_from(["", "duplicate", "redeliver", "hold", "crash", "stale"]),
    choose=st.data(),
)
def test_whatever_a_random_walk_ends_in_has_been_explored(
    order: Ordering,
    scenario: Scenario,
    inside: set[int],
    flush_wait: str,
    fault: str,
    choose: st.DataObject,
) -> None:
    order = order.model_copy(update={"flush_wait": flush_wait})
    in_guest = tuple(sorted(vcpu for vcpu in inside if vcpu < scenario.vcpus))
    scenario = scenario.model_copy(update={"in_guest": in_guest})
    faults = Budget(ticks=int(scenario.ticker), **({fault: 1} if fault else {}))
    begin = schedule(order, scenario, faults)
    every = explored(begin, Bounds(STATES_MAX))
    if not every.complete:
        return
    model = begin.model()
    for _ in range(WALKS):
        judgement = play(begin, model, walk(model, choose)).judgement()

        assert judged_kinds(judgement) <= found_kinds(every)
        assert judgement.notes == ()
        assert judgement.counts.unaccounted == 0

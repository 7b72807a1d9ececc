"""One worker for each vCPU, as the explorer has it, leaves out nothing that fewer workers can do.

A worker with several vCPUs keeps a state for each, and gets their commands from one queue: that
rules orders out and adds none. Whatever a run with fewer workers ends in has been explored.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.exploring import explored, found_kinds, judged_kinds, schedule, shipped
from support.orderings import orderings, scenarios
from support.simulated import ShuffledBroker, run

from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.strategy import Bounds
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

pytestmark = pytest.mark.slow

STATES_MAX = 8_000
QUIET = Scenario(vcpus=3, ticker=False)
SEEDS = range(12)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    order=orderings(racy=True),
    scenario=scenarios(racy=True, vcpus_max=3),
    workers=st.integers(1, 2),
    seed=st.integers(0, 2**32),
)
def test_whatever_fewer_workers_end_in_has_been_explored(
    order: Ordering, scenario: Scenario, workers: int, seed: int
) -> None:
    scenario = scenario.model_copy(update={"ticker": False})
    every = explored(schedule(order, scenario, Budget()), Bounds(STATES_MAX))
    if not every.complete:
        return

    finished = run(order, scenario, workers, ShuffledBroker(seed))

    assert judged_kinds(finished.judgement) <= found_kinds(every)
    assert finished.judgement.notes == ()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", catalogue_names())
def test_every_entry_has_its_verdict_with_fewer_workers(name: str, workers: int) -> None:
    """Safe in every order drawn, or violated in some."""
    expected = catalogue_entry(name).expected(QUIET)
    ordering = shipped(name)
    kinds = found_kinds(explored(schedule(ordering, QUIET, Budget())))

    ended = [judged_kinds(run(ordering, QUIET, workers, ShuffledBroker(seed)).judgement)
             for seed in SEEDS]  # fmt: skip

    assert expected is not None
    assert set().union(*ended) <= kinds
    assert any(ended) == bool(kinds)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_race_without_the_fence_needs_no_worker_of_its_own(workers: int) -> None:
    ordering = shipped("unload-in-destroy", fence=False)

    ended = [judged_kinds(run(ordering, QUIET, workers, ShuffledBroker(seed)).judgement)
             for seed in SEEDS]  # fmt: skip

    assert any(("use-after-free", vcpu) in kinds for kinds in ended for vcpu in range(3))

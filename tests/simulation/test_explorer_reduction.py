"""The reduction loses nothing: the same findings, and the same witnesses, with and without it.

Hazards aside: which of two independent steps comes first decides whether a freed vCPU was visible
meanwhile, and the reduction keeps one order. Where hazards decide (`--strict`) it is off.
"""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.exploring import loop, ordering, schedule, shipped, unreduced
from support.orderings import orderings, scenarios

from teardown_lab.explorer import breadth_first
from teardown_lab.explorer.cast import assemble
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.findings import HAZARDS, Finding
from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.schedule import Schedule
from teardown_lab.explorer.strategy import Bounds, Explored
from vm_manager.catalogue import catalogue_names
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.spread, pytest.mark.slow]

SHAPES = [
    {"roots": "distinct"},
    {"roots": "shared"},
    {"mmu": "tdp"},
    {"mmu": "tdp", "nested": (0,), "avic": True},
    {"async_pf": 1},
    {"in_guest": (0,)},
    {"in_guest": (0, 1), "ticker": False},
    {"previous_roots": 1, "nested": (1,)},
]
SLOW_WITH_THREE = {"parallel-destroy"}
RANDOM_STATES_MAX = 6_000
"""Of one random exploration without the reduction; larger ones are given up."""

SOUND = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


class Watched(Model):
    """A model that remembers all that was found, to the message, and every state that is an end."""

    def __init__(self, begin: Schedule) -> None:
        super().__init__(assemble(begin.ordering, begin.scenario), begin.faults)
        self.found: set[Finding] = set()
        self.ends: set[State] = set()

    def apply(self, state: State, number: int) -> tuple[State, tuple[Finding, ...]]:
        after, findings = super().apply(state, number)
        self.found |= {each for each in findings if each.invariant not in HAZARDS}
        return after, findings

    def choices(self, state: State, only: int | None = None) -> list[int]:
        choices = super().choices(state, only)
        if not choices:
            self.ends.add(state)
        return choices

    def explore(self, bounds: Bounds) -> tuple[Explored, set[Finding], set[State], set[str]]:
        self.found, self.ends, self.witnessed = set(), set(), set()
        explored = breadth_first.explore(self, bounds, lambda *_: None)
        return explored, self.found, self.ends, self.witnessed


def assert_loses_nothing(begin: Schedule, states_max: int = 1_000_000) -> None:
    """Compare findings, ends and witnesses; one model numbers the states of both."""
    model = Watched(begin)
    every, found, ends, witnessed = model.explore(Bounds(states_max, reduce=False))
    if not every.complete:
        return
    fewer, *kept = model.explore(Bounds())

    assert kept == [found, ends, witnessed]
    assert set(fewer.paths) == set(every.paths)
    assert fewer.states <= every.states
    assert fewer.complete


@pytest.mark.parametrize("name", catalogue_names())
def test_with_two_vcpus_every_entry_loses_nothing(name: str) -> None:
    for shape in SHAPES:
        assert_loses_nothing(schedule(name, Scenario.model_validate({"vcpus": 2, **shape})))


@pytest.mark.parametrize("name", sorted(set(catalogue_names()) - SLOW_WITH_THREE))
def test_with_three_vcpus_every_entry_loses_nothing(name: str) -> None:
    for shape in SHAPES[:3]:
        scenario = Scenario.model_validate({"vcpus": 3, **shape})
        assert_loses_nothing(schedule(name, scenario), 30_000)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(SLOW_WITH_THREE))
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_with_three_vcpus_the_large_ones_lose_nothing(name: str, shape: dict[str, object]) -> None:
    scenario = Scenario.model_validate({"vcpus": 3, **shape})
    assert_loses_nothing(schedule(name, scenario))


@pytest.mark.parametrize("fault", ["duplicate", "redeliver", "hold", "crash", "stale"])
@pytest.mark.parametrize("fence", [True, False])
def test_with_a_fault_the_patch_loses_nothing(fault: str, fence: bool) -> None:
    patch = shipped("unload-in-destroy", fence=fence)
    assert_loses_nothing(schedule(patch, 2 if fence else 1, Budget(ticks=1, **{fault: 1})))


def test_a_request_that_makes_a_vcpu_leave_its_guest_is_not_taken_early() -> None:
    """Taken at once it would end the guest, and hide that its translations outlive a page."""
    hidden_in_guest = ordering(
        loop("clear_async_pf"), loop("erase_vcpu"), "zap_all_roots", "stop_background_workers"
    )
    scenario = Scenario(vcpus=2, ticker=True, in_guest=(0, 1))
    begin = schedule(hidden_in_guest, scenario, Budget(ticks=1))

    assert ("stale-tlb", 0, False) in unreduced(begin).paths
    assert_loses_nothing(begin)


def test_a_scan_that_is_waited_for_lets_no_guest_translate_to_a_freed_page() -> None:
    """KVM_REQ_SCAN_IOAPIC has KVM_REQUEST_WAIT: all guests are left before the next step."""
    hidden_in_guest = ordering(
        "stop_background_workers", loop("clear_async_pf"), loop("erase_vcpu"), "zap_all_roots"
    )
    begin = schedule(hidden_in_guest, Scenario(vcpus=2, ticker=False, in_guest=(0, 1)))

    assert not any(invariant == "stale-tlb" for invariant, *_ in unreduced(begin).paths)
    assert_loses_nothing(begin)


def test_an_unload_without_roots_asks_for_no_fence() -> None:
    """The 2007 zap takes the roots away, so that the unload behind it covers no request."""
    begin = schedule(
        ordering(loop("zap_all_until_empty", "unload_mmu", "free_vcpu")), 1, Budget(ticks=2)
    )

    assert ("use-after-free", 0, True) in unreduced(begin).paths
    assert_loses_nothing(begin)


@st.composite
def guests(draw: st.DrawFn, vcpus_max: int) -> Scenario:
    """Return any scenario, with vCPUs in guest."""
    scenario = draw(scenarios(racy=True, vcpus_max=vcpus_max))
    inside = draw(st.sets(st.integers(0, scenario.vcpus - 1)))
    return scenario.model_copy(update={"in_guest": tuple(sorted(inside))})


@SOUND
@given(
    order=orderings(racy=True),
    scenario=guests(2),
    flush_wait=st.sampled_from(["in_guest", "all"]),
    fence=st.booleans(),
    ticks=st.integers(0, 2),
)
def test_random_orderings_lose_nothing(
    order: Ordering, scenario: Scenario, flush_wait: str, fence: bool, ticks: int
) -> None:
    order = order.model_copy(update={"flush_wait": flush_wait, "fence": fence})
    begin = schedule(order, scenario, Budget(ticks=ticks))
    assert_loses_nothing(begin, RANDOM_STATES_MAX)


@SOUND
@given(
    order=orderings(racy=True),
    scenario=guests(2),
    faults=st.builds(
        Budget,
        ticks=st.integers(0, 1),
        duplicate=st.integers(0, 1),
        redeliver=st.integers(0, 1),
        hold=st.integers(0, 1),
        crash=st.integers(0, 1),
        stale=st.integers(0, 1),
        drop=st.integers(0, 1),
    ),
)
@example(shipped("parallel-destroy"), Scenario(vcpus=1), Budget(1, 1, 1, 1))
@example(shipped("parallel-destroy"), Scenario(vcpus=1), Budget(1, crash=1))
@example(shipped("parallel-destroy"), Scenario(vcpus=1), Budget(1, crash=1, stale=1))
def test_random_orderings_with_faults_lose_nothing(
    order: Ordering, scenario: Scenario, faults: Budget
) -> None:
    assert_loses_nothing(schedule(order, scenario, faults), RANDOM_STATES_MAX)

"""At-least-once: every message twice, and nothing is counted or done twice."""

import pytest
from support.simulated import TwiceBroker, essence, run

from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.scenario import Scenario

pytestmark = pytest.mark.slow

SCENARIOS = {
    "shadow": Scenario(vcpus=3, ticker=False),
    "rich": Scenario(vcpus=4, ticker=False, async_pf=2, avic=True, nested=(0, 2)),
    "tdp": Scenario(vcpus=3, ticker=False, mmu="tdp", nested=(1,)),
    "shared": Scenario(vcpus=3, ticker=False, roots="shared", previous_roots=2),
}
"""Without the ticker, whose ticks fall elsewhere when there are more deliveries."""

SHIPPED = {name: catalogue_entry(name) for name in catalogue_names()}
FENCED = [name for name, entry in SHIPPED.items() if entry.ordering.fence and not entry.racy]
RACY = [name for name, entry in SHIPPED.items() if entry.ordering.fence and entry.racy]


@pytest.mark.parametrize("shape", SCENARIOS)
@pytest.mark.parametrize("name", FENCED)
def test_every_message_twice_changes_neither_verdict_nor_counts(name: str, shape: str) -> None:
    ordering = SHIPPED[name].ordering

    once = run(ordering, SCENARIOS[shape])
    twice = run(ordering, SCENARIOS[shape], broker=TwiceBroker(once=("records",)))

    assert essence(twice) == essence(once)
    assert twice.step_count > once.step_count


@pytest.mark.parametrize("shape", SCENARIOS)
@pytest.mark.parametrize("name", RACY)
def test_a_racy_ordering_whose_messages_come_twice_still_ends_with_everything_accounted_for(
    name: str, shape: str
) -> None:
    twice = run(SHIPPED[name].ordering, SCENARIOS[shape], broker=TwiceBroker(once=("records",)))

    found = essence(twice)
    assert (found["outcome"], found["notes"], found["counts"].unaccounted) == ("settled", (), 0)


@pytest.mark.parametrize("name", FENCED)
def test_with_two_workers_all_but_placements_may_come_twice(name: str) -> None:
    """A repeated placement may go to the other worker, which then owns the vCPU as well."""
    ordering = SHIPPED[name].ordering
    scenario = SCENARIOS["rich"]

    once = run(ordering, scenario, workers=2)
    twice = run(ordering, scenario, 2, TwiceBroker(once=("records", "placement")))

    assert essence(twice) == essence(once)

"""What an ordering costs is known before it runs, and what costs too much does not run."""

import pytest
from hypothesis import given, settings
from support.orderings import orderings, scenarios
from support.simulated import run

from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol import limits, topology
from vm_protocol.observations import Event
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.work import allowed_for, steps_of, too_much


def repeated(step: str, times: int) -> Ordering:
    return Ordering.model_validate({"name": "again", "steps": (step,) * times})


@pytest.mark.parametrize("name", catalogue_names())
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"roots": "shared"},
        {"roots": "mixed"},
        {"mmu": "tdp"},
        {"mmu": "tdp", "nested": tuple(range(limits.VCPUS_MAX))},
        {"previous_roots": 3, "async_pf": 16, "avic": True},
    ],
    ids=str,
)
def test_the_catalogue_runs_on_the_largest_vm_of_every_shape(
    name: str, shape: dict[str, object]
) -> None:
    scenario = Scenario.model_validate({"vcpus": limits.VCPUS_MAX, **shape})

    assert too_much(catalogue_entry(name).ordering, scenario) is None


@pytest.mark.parametrize(
    ("step", "times", "vcpus"),
    [("zap_all_roots", 40, 128), ("zap_all_roots", 160, 64), ("zap_all_roots", 9, 1024)],
)
def test_a_short_message_that_makes_very_many_is_refused_and_told_why(
    step: str, times: int, vcpus: int
) -> None:
    excess = too_much(repeated(step, times), Scenario(vcpus=vcpus))

    assert excess is not None
    assert excess.total == times * vcpus * (vcpus + 1)
    assert excess.total > excess.allowed >= limits.WORK_FACTOR * 2 * vcpus * vcpus
    assert f"`{step}` (step 1) makes {vcpus * (vcpus + 1):,} messages" in str(excess)
    assert len(str(excess)) <= limits.WHY_CHARACTERS_MAX


def test_no_ordering_that_can_be_written_costs_more_than_its_vm_may() -> None:
    """The most that a language of 256 steps can ask for, against what is let through."""
    scenario = Scenario(vcpus=limits.VCPUS_MAX, previous_roots=3)
    most = sum(step.messages for step in steps_of(repeated("zap_all_roots", 256), scenario))

    assert most > 10**9
    assert allowed_for(scenario) < most / 50


@settings(max_examples=60)
@given(ordering=orderings(racy=False), scenario=scenarios(racy=False, vcpus_max=4))
def test_a_run_never_delivers_more_requests_than_were_counted(
    ordering: Ordering, scenario: Scenario
) -> None:
    counted = sum(step.messages for step in steps_of(ordering, scenario))

    finished = run(ordering, scenario, workers=2)

    made = [
        record
        for record in finished.records
        if record.event == Event.MESSAGE_RECEIVED
        and str(record.details["queue"]).startswith(("vcpu.vm", "worker.", "manager.replies"))
        and record.details["queue"] != topology.PLACEMENT_QUEUE.name
        and record.details["type"] not in ("VcpuPlaced", "PlacementAnswered")
    ]
    assert len(made) <= counted

"""How long a freed vCPU stays visible, measured by the events of whole runs in memory."""

import pytest
from prometheus_client import CollectorRegistry
from support.simulated import run

from service_runtime.metrics import Metrics
from vm_manager.catalogue import catalogue_entry, read_ordering
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

VCPUS = 3


def records(ordering: str) -> list[Record]:
    """Return what the manager records when a VM is torn down."""
    ran = run(catalogue_entry(ordering).ordering, Scenario(vcpus=VCPUS))
    return [record for record in ran.records if record.actor == "manager.1"]


def measured(told: list[Record]) -> tuple[float, float]:
    """Return how many windows were counted, and their sum in seconds."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for record in told:
        metrics.observe(record)
    name = "teardown_freed_while_visible_seconds"
    count = registry.get_sample_value(f"{name}_count")
    seconds = registry.get_sample_value(f"{name}_sum")
    assert count is not None
    assert seconds is not None
    return count, seconds


@pytest.mark.parametrize("ordering", ["unload-in-destroy", "unload-in-destroy-wipe-last"])
def test_each_vcpu_has_a_window_from_its_answered_free_to_its_erase(ordering: str) -> None:
    told = records(ordering)
    erased = {each.vcpu: each.at_ns for each in told if each.event == Event.VCPU_ERASED}
    freed = {
        each.vcpu: each.at_ns
        for each in told
        if each.event == Event.MESSAGE_RECEIVED and each.details["type"] == "VcpuStepsDone"
    }

    count, seconds = measured(told)

    assert len(erased) == count == VCPUS
    assert seconds == pytest.approx(sum(erased[vcpu] - freed[vcpu] for vcpu in erased) / 1e9)


def test_wiping_last_is_the_longer_window() -> None:
    assert (
        measured(records("unload-in-destroy-wipe-last"))[1]
        > (measured(records("unload-in-destroy"))[1])
    )


def test_a_vcpu_that_is_erased_before_it_is_freed_has_none() -> None:
    assert measured(records("fenced-parallel-destroy")) == (0.0, 0.0)


def test_the_answer_of_a_command_that_frees_nothing_opens_none() -> None:
    """Erased between an unload and the free: the answer before the erase is the unload's."""
    text = catalogue_entry("unload-in-destroy").text
    free, erase = "      - free_vcpu\n", "      - erase_vcpu"
    apart = text.replace(f"{free}{erase}", f"{erase}\n{free.rstrip()}")
    assert apart != text

    ran = run(read_ordering(apart, "apart").ordering, Scenario(vcpus=VCPUS))
    told = [record for record in ran.records if record.actor == "manager.1"]

    assert measured(told) == (0.0, 0.0)

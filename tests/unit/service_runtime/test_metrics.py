"""What a service shows before anything has happened."""

import pytest
from immutables import Map
from prometheus_client import CollectorRegistry

from service_runtime.metrics import COUNTERS, DEATH_REASONS, VIOLATIONS, CounterRow, Metrics
from vm_manager.history_index import VmIndex
from vm_manager.letters import judge
from vm_protocol.effects import DeadLettered
from vm_protocol.errors import RejectReason
from vm_protocol.messages import TlbFlush


@pytest.mark.parametrize("row", [row for row in COUNTERS if row.known], ids=lambda row: row.name)
def test_a_counter_of_known_labels_starts_at_zero(row: CounterRow) -> None:
    """A series that begins at 1 has no increase: Prometheus would miss the first of each kind."""
    registry = CollectorRegistry()

    Metrics(registry)

    for labels in row.known:
        assert registry.get_sample_value(f"{row.name}_total", labels) == 0


def test_rejects_of_every_reason_start_at_zero() -> None:
    registry = CollectorRegistry()

    Metrics(registry)

    shown = {
        RejectReason(sample.labels["reason"])
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "teardown_rejects_total"
    }
    assert shown == set(RejectReason)


def test_dead_letters_that_start_at_zero_are_those_in_which_the_monitor_sees_a_violation() -> None:
    flush = TlbFlush(vm="vm-0", incarnation=1, generation=1, recipients=(0,))
    told = set()
    for reason in set(DEATH_REASONS) - {"delivery_limit"}:  # that one is of commands
        for why in RejectReason:
            letter = DeadLettered("1", reason, "vcpu.vm-0.0.1", flush.identity(), flush)
            index = VmIndex(rejects=Map({(letter.message_id, letter.queue): why}))
            invariant, shown = judge(index, letter)
            if invariant is not None:
                told.add((reason, invariant, shown))

    known = {(each["reason"], each["invariant"], each["why"]) for each in VIOLATIONS}
    assert known == told | {("delivery_limit", "stuck", RejectReason.ROOTS_PINNED)}

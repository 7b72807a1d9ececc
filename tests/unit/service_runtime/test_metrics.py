"""What a service shows before anything has happened."""

import pytest
from prometheus_client import CollectorRegistry

from service_runtime.metrics import COUNTERS, CounterRow, Metrics
from vm_protocol.errors import RejectReason


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

"""Which observation moves which Prometheus metric: one table, read by code, docs and tests.

Labels come from closed sets, never from ids. Units are Prometheus' base units.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter

from vm_protocol.observations import Event
from vm_protocol.wire import Record

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One counter: the event that moves it, its labels, and which records count."""

    name: str
    help: str
    event: Event
    labels: Callable[[dict[str, Any]], Labels]
    counts: Callable[[dict[str, Any]], bool] = lambda _: True


def _kind(details: dict[str, Any]) -> Labels:
    return {"kind": str(details["kind"])}


def _type(details: dict[str, Any]) -> Labels:
    return {"type": str(details["type"])}


def _death(details: dict[str, Any]) -> Labels:
    return {
        "reason": str(details["reason"]),
        "invariant": str(details["invariant"] or "none"),
        "why": str(details["why"]),
    }


TABLE: Final = (
    Row(
        "teardown_request_broadcasts",
        "Requests published to vm.requests, by kind",
        Event.REQUEST_POSTED,
        _kind,
        lambda details: bool(details["recipients"]),
    ),
    Row(
        "teardown_request_deliveries",
        "Requests that reached a vCPU's mailbox for the first time, by kind",
        Event.REQUEST_DELIVERED,
        _kind,
    ),
    Row(
        "teardown_request_acks",
        "Requests posted to a live vCPU and acknowledged, by kind",
        Event.REQUEST_DELIVERED,
        _kind,
        lambda details: details["outcome"] == "posted",
    ),
    Row(
        "teardown_request_duplicates",
        "Requests that a vCPU had seen before, by kind",
        Event.REQUEST_DUPLICATED,
        _kind,
    ),
    Row(
        "teardown_messages_sent",
        "Messages published, by type",
        Event.MESSAGE_SENT,
        _type,
    ),
    Row(
        "teardown_rejects",
        "Deliveries rejected, by reason",
        Event.MESSAGE_REJECTED,
        lambda details: {"reason": str(details["reason"])},
    ),
    Row(
        "teardown_messages_skipped",
        "Deliveries that are no message of ours where no dead letter is possible",
        Event.MESSAGE_SKIPPED,
        lambda _: {},
    ),
    Row(
        "teardown_messages_returned",
        "Mandatory messages that matched no queue, by type",
        Event.MESSAGE_RETURNED,
        _type,
    ),
    Row(
        "teardown_dead_letters",
        "Dead letters, by the broker's reason, the broken invariant and the service's reason",
        Event.DEAD_LETTER_CLASSIFIED,
        _death,
    ),
)


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows: dict[Event, list[tuple[Row, Counter]]] = {}
        for row in TABLE:
            counter = Counter(row.name, row.help, _label_names(row), registry=registry)
            self._rows.setdefault(row.event, []).append((row, counter))

    def observe(self, record: Record) -> None:
        """Count a record in every row that it belongs to."""
        for row, counter in self._rows.get(record.event, ()):
            if row.counts(record.details):
                labels = row.labels(record.details)
                (counter.labels(**labels) if labels else counter).inc()


class _AnyDetails(dict[str, Any]):
    """Details that have every key: shows which labels a row makes."""

    def __missing__(self, key: str) -> str:
        return key


def _label_names(row: Row) -> tuple[str, ...]:
    return tuple(row.labels(_AnyDetails()))

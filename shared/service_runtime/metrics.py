"""Which observation moves which Prometheus metric: tables, read by code, docs and tests.

Labels come from closed sets, never from ids. Units are Prometheus' base units. Gauges of a core's
state are read off at each scrape; its table stands beside the core.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service_runtime.connectivity import Connectivity
from service_runtime.office import OFFICE_COUNTERS, OFFICE_GAUGES, OfficeNumbers
from service_runtime.windows import WINDOW, FreedWindow
from vm_protocol.actor import Actor
from vm_protocol.errors import RejectReason
from vm_protocol.gauges import GaugeRow
from vm_protocol.invariants import INVARIANT_OF_REJECT, Invariant
from vm_protocol.messages import REQUEST_KINDS, SIGNS_OF_LIFE
from vm_protocol.observations import Event
from vm_protocol.wire import Record

Labels = dict[str, str]
Details = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CounterRow:
    """A counter: the event that moves it, its labels, and which records count.

    `known` are labels that are shown as 0 from the start: Prometheus sees no increase in a series
    that begins at 1, and no panel tells "none yet" from "not measured".
    """

    name: str
    help: str
    event: Event
    labels: Callable[[Details], Labels] = lambda _: {}
    counts: Callable[[Details], bool] = lambda _: True
    known: tuple[Labels, ...] = ()


@dataclass(frozen=True, slots=True)
class HistogramRow:
    """A histogram in seconds of a value that an event carries in nanoseconds."""

    name: str
    help: str
    event: Event
    detail: str
    buckets: tuple[float, ...]
    labels: Callable[[Details], Labels] = lambda _: {}
    known: tuple[Labels, ...] = ()


@dataclass(frozen=True, slots=True)
class SpanRow:
    """A histogram in seconds from one event of a VM to another of the same VM and actor."""

    name: str
    help: str
    begin: Event
    ends: tuple[Event, ...]
    buckets: tuple[float, ...]


DEATH_REASONS: Final = ("rejected", "expired", "maxlen", "delivery_limit")
"""The broker's reasons (RabbitMQ: dlx)."""

DEATH_CAUSES: Final = frozenset(
    {*map(str, RejectReason), *DEATH_REASONS, "unrecorded", "connections-lost"}
)
"""Why a dead letter died, as the monitor says it."""


def _kind(details: Details) -> Labels:
    return {"kind": str(details["kind"])}


def _type(details: Details) -> Labels:
    return {"type": str(details["type"])}


def _reason(details: Details) -> Labels:
    return {"reason": str(details["reason"])}


def _death(details: Details) -> Labels:
    reason, why = str(details["reason"]), str(details["why"])
    return {  # a forged dead letter may name anything
        "reason": reason if reason in DEATH_REASONS else "other",
        "invariant": str(details["invariant"] or "none"),
        "why": why if why in DEATH_CAUSES else "other",
    }


KINDS: Final = tuple({"kind": str(kind)} for kind in REQUEST_KINDS.values())
"""Every kind of request."""

REASONS: Final = tuple({"reason": str(reason)} for reason in RejectReason)
"""Every reason for a reject."""

VIOLATIONS: Final = tuple(
    {"reason": reason, "invariant": str(broken), "why": str(why)}
    for reason, broken, why in (
        *(("rejected", broken, why) for why, broken in INVARIANT_OF_REJECT.items()),
        ("delivery_limit", Invariant.STUCK, RejectReason.ROOTS_PINNED),
    )
)
"""The dead letters that break an invariant (vm_manager.letters.judge)."""

ROUND_TRIP_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
"""Seen on a private node: 1-5 ms for a few vCPUs, tens of ms for 256."""

TEARDOWN_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
"""Seen on a private node: 45 ms for 4 vCPUs, 1 s for 64, 12 s for 256."""

COUNTERS: Final = (
    CounterRow(
        "teardown_commands",
        "DestroyVcpu commands sent",
        Event.MESSAGE_SENT,
        counts=lambda details: bool(details["type"] == "DestroyVcpu"),
    ),
    CounterRow(
        "teardown_request_broadcasts",
        "Requests published to vm.requests, by kind",
        Event.REQUEST_POSTED,
        _kind,
        lambda details: bool(details["recipients"]),
        known=KINDS,
    ),
    CounterRow(
        "teardown_request_deliveries",
        "Requests that reached a vCPU's mailbox for the first time, by kind",
        Event.REQUEST_DELIVERED,
        _kind,
        known=KINDS,
    ),
    CounterRow(
        "teardown_request_acks",
        "Requests posted to a live vCPU and acknowledged, by kind",
        Event.REQUEST_DELIVERED,
        _kind,
        lambda details: bool(details["outcome"] == "posted"),
        known=KINDS,
    ),
    CounterRow(
        "teardown_request_duplicates",
        "Requests that a vCPU had seen before, by kind",
        Event.REQUEST_DUPLICATED,
        _kind,
        known=KINDS,
    ),
    CounterRow("teardown_messages_sent", "Messages published, by type", Event.MESSAGE_SENT, _type),
    CounterRow(
        "teardown_rejects",
        "Deliveries rejected, by reason",
        Event.MESSAGE_REJECTED,
        _reason,
        known=REASONS,
    ),
    CounterRow(
        "teardown_acks",
        "Messages acknowledged, but for signs of life",
        Event.MESSAGE_ACKED,
        counts=lambda details: details.get("type") not in SIGNS_OF_LIFE,
    ),
    CounterRow(
        "teardown_messages_skipped",
        "Deliveries that are no message of ours where no dead letter is possible",
        Event.MESSAGE_SKIPPED,
    ),
    CounterRow(
        "teardown_messages_returned",
        "Mandatory messages that matched no queue, by type",
        Event.MESSAGE_RETURNED,
        _type,
    ),
    CounterRow(
        "teardown_dead_letters",
        "Dead letters, by the broker's reason, the broken invariant and the service's reason",
        Event.DEAD_LETTER_CLASSIFIED,
        _death,
        known=VIOLATIONS,
    ),
    CounterRow(
        "teardown_dead_letters_republished",
        "Messages that lost connections brought to the delivery limit, sent once more",
        Event.DEAD_LETTER_REPUBLISHED,
    ),
    CounterRow("teardown_vms_freed", "Teardowns that freed their VM", Event.VM_FREED),
    CounterRow("teardown_stuck", "Teardowns that ended at a step", Event.TEARDOWN_STUCK),
    CounterRow(
        "teardown_hosts_lost",
        "Workers that a VM has lost, by reason: one that ends counts once for each of its VMs",
        Event.HOST_LOST,
        _reason,
        known=({"reason": "silent"}, {"reason": "drained"}),
    ),
)
HISTOGRAMS: Final = (
    HistogramRow(
        "teardown_request_round_trip_seconds",
        "From a request's sending until every recipient has settled it, by kind",
        Event.REQUEST_COMPLETED,
        "round_trip_ns",
        ROUND_TRIP_BUCKETS,
        _kind,
        KINDS,
    ),
)
SPANS: Final = (
    SpanRow(
        "teardown_duration_seconds",
        "From DestroyVm taken up to the VM freed, or stuck",
        Event.TEARDOWN_STARTED,
        (Event.VM_FREED, Event.TEARDOWN_STUCK),
        TEARDOWN_BUCKETS,
    ),
)
DRIVER_METRICS: Final = (
    ("teardown_broker_reconnects", "Connections lost and opened again, by actor"),
    (
        "teardown_consumers_cancelled",
        "Consumers that the broker cancelled although their queue is there, by actor",
    ),
    ("teardown_unconfirmed_publishes", "Publishes that the broker has not confirmed, by actor"),
    ("teardown_broker_connected", "1 while the actor is connected and consumes, by actor"),
)
"""Read off the drivers at each scrape; the first two are counters."""

INSTANCE_INFO: Final = (
    "teardown_instance_info",
    "Always 1: `name` is the host's (a container's, a pod's), or what REPLICA or WORKER_ID says",
)


def show_instance(registry: CollectorRegistry, service: str, name: str) -> None:
    """Have every scrape say which service this is, and by which name people know it."""
    gauge = Gauge(*INSTANCE_INFO, ["service", "name"], registry=registry)
    gauge.labels(service=service, name=name).set(1)


class Metrics:
    """The counters and histograms of one process, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._moved: dict[Event, list[Callable[[Record], None]]] = {}
        for row in COUNTERS:
            self._on(row.event, _counting(row, registry))
        for histogram_row in HISTOGRAMS:
            self._on(histogram_row.event, _measuring(histogram_row, registry))
        for span_row in SPANS:
            span = _Span(span_row, registry)
            self._on(span_row.begin, span.begin)
            for end in span_row.ends:
                self._on(end, span.end)
        window = FreedWindow(registry)
        self._on(Event.MESSAGE_SENT, window.sent)
        self._on(WINDOW.begin, window.received)
        self._on(WINDOW.end, window.erased)
        self._on(Event.VM_REMOVED, window.removed)

    def _on(self, event: Event, move: Callable[[Record], None]) -> None:
        self._moved.setdefault(event, []).append(move)

    def observe(self, record: Record) -> None:
        """Move every metric that a record belongs to."""
        for move in self._moved.get(record.event, ()):
            move(record)


def _counting(row: CounterRow, registry: CollectorRegistry) -> Callable[[Record], None]:
    counter = Counter(row.name, row.help, label_names(row.labels), registry=registry)
    children: dict[tuple[str, ...], Counter] = {
        tuple(labels.values()): counter.labels(**labels) for labels in row.known
    }

    def move(record: Record) -> None:
        if row.counts(record.details):
            labels = row.labels(record.details)
            key = tuple(labels.values())
            if key not in children:  # the client's own look-up takes a lock and checks every name
                children[key] = counter.labels(**labels) if labels else counter
            children[key].inc()

    return move


def _measuring(row: HistogramRow, registry: CollectorRegistry) -> Callable[[Record], None]:
    names = label_names(row.labels)
    histogram = Histogram(row.name, row.help, names, buckets=row.buckets, registry=registry)
    for known in row.known:
        histogram.labels(**known)

    def move(record: Record) -> None:
        labels = row.labels(record.details)
        seconds = record.details[row.detail] / 1e9
        (histogram.labels(**labels) if labels else histogram).observe(seconds)

    return move


class _Span:
    """Begins of spans by VM; one that never ends is overwritten by the VM's next."""

    def __init__(self, row: SpanRow, registry: CollectorRegistry) -> None:
        self._histogram = Histogram(row.name, row.help, buckets=row.buckets, registry=registry)
        self._begun_ns: dict[str | None, int] = {}

    def begin(self, record: Record) -> None:
        self._begun_ns[record.vm] = record.at_ns

    def end(self, record: Record) -> None:
        begun_ns = self._begun_ns.pop(record.vm, None)
        if begun_ns is not None:
            self._histogram.observe(max(0, record.at_ns - begun_ns) / 1e9)


class _AnyDetails(dict[str, Any]):
    """Details that have every key: shows which labels a row makes."""

    def __missing__(self, key: str) -> str:
        return key


def label_names(labels: Callable[[Details], Labels]) -> tuple[str, ...]:
    """Return the names of the labels that a row makes."""
    return tuple(labels(_AnyDetails()))


@dataclass(frozen=True, slots=True)
class Shown:
    """An actor, how it stands with its broker, the gauges that its state shows, its office."""

    actor: Actor[Any]
    connectivity: Connectivity
    gauges: tuple[GaugeRow, ...]
    office: OfficeNumbers | None = None


class StateCollector(Collector):
    """Reads drivers and core states at each scrape; states are frozen, so any thread may."""

    def __init__(self, shown: Sequence[Shown]) -> None:
        self._shown = shown

    def collect(self) -> Iterable[Metric]:
        """Yield the drivers' metrics and the states' gauges."""
        names = [name for name, _ in DRIVER_METRICS]
        helps = [text for _, text in DRIVER_METRICS]
        reconnects = CounterMetricFamily(names[0], helps[0], labels=["actor"])
        cancelled = CounterMetricFamily(names[1], helps[1], labels=["actor"])
        unconfirmed = GaugeMetricFamily(names[2], helps[2], labels=["actor"])
        connected = GaugeMetricFamily(names[3], helps[3], labels=["actor"])
        for each in self._shown:
            kind, connectivity = each.actor.core.actor.partition(".")[0], each.connectivity
            reconnects.add_metric([kind], connectivity.reconnect_count)
            cancelled.add_metric([kind], connectivity.cancelled_count)
            unconfirmed.add_metric([kind], connectivity.unconfirmed_count)
            connected.add_metric([kind], float(connectivity.is_connected))
        yield from (reconnects, cancelled, unconfirmed, connected)
        for each in self._shown:
            for row in each.gauges:
                yield GaugeMetricFamily(row.name, row.help, value=row.read(each.actor.state))
            if each.office is not None:
                yield from _office(each.office)


def _office(numbers: OfficeNumbers) -> Iterable[Metric]:
    for row in OFFICE_COUNTERS:
        yield CounterMetricFamily(row.name, row.help, value=row.read(numbers))
    for row in OFFICE_GAUGES:
        yield GaugeMetricFamily(row.name, row.help, value=row.read(numbers))

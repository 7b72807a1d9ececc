"""docs/metrics.md, from the tables of service_runtime.metrics and of the services' gauges."""

from collections.abc import Callable, Iterable
from pathlib import Path

import vcpu_worker
import vm_manager
import vm_protocol
from generator import runs
from generator.markdown import code, heading, table
from service_runtime.metrics import (
    COUNTERS,
    DRIVER_METRICS,
    HISTOGRAMS,
    INSTANCE_INFO,
    SPANS,
    CounterRow,
    label_names,
)
from service_runtime.office import OFFICE_COUNTERS, OFFICE_GAUGES
from service_runtime.windows import WINDOW
from vcpu_worker.gauges import WORKER_GAUGES
from vm_manager.gauges import MANAGER_GAUGES, MONITOR_GAUGES
from vm_protocol.gauges import GaugeRow
from vm_protocol.observations import Event
from vm_protocol.wire import Record

MANAGER, WORKER = "vm-manager", "vcpu-worker"
SERVICE_OF = {"manager": MANAGER, "monitor": MANAGER, "worker": WORKER}
SOURCES = {MANAGER: vm_manager, WORKER: vcpu_worker}
COLUMNS = ["Name", "Labels", "Service", "Meaning"]

INTRODUCTION = """
Every service serves these at `/metrics`, beside `/healthz` (its event loop runs) and `/readyz`
(its actors are connected and consume). Counters and histograms are moved by the events of the
history ([protocol.md](protocol.md#events)); gauges are read off the state at each scrape. Labels
come from closed sets and never hold an id; only `teardown_instance_info` has an instance's name.
Units are Prometheus' base units.

*Service* says who moves a metric. The client library adds a series `..._created` to each counter
and histogram: the time at which it began.
"""


def page() -> str:
    """Return the page's text."""
    lines = heading("Metrics", "`service_runtime/metrics.py` and the services' `gauges.py`")
    lines += [*INTRODUCTION.strip().splitlines(), "", "## Counters", ""]
    lines += table(COLUMNS, map(_counter, COUNTERS))
    lines += ["## Histograms", "", "In seconds, as `..._bucket`, `..._sum` and `..._count`.", ""]
    lines += table([*COLUMNS, "Buckets"], _histograms())
    lines += ["## Gauges of a service's state", ""]
    lines += table(COLUMNS, _gauges())
    lines += ["## Counters and gauges of the manager's office", ""]
    lines += ["How a manager is elected and takes over: [recovery.md](recovery.md).", ""]
    lines += table(COLUMNS, _office())
    lines += ["## Which instance this is", ""]
    name, text = INSTANCE_INFO
    lines += table(COLUMNS, [[f"`{name}`", "`service`, `name`", "both", text]])
    lines += ["## Gauges and counters of each actor's connection", ""]
    lines += ["The label `actor` is `manager`, `monitor` or `worker`.", ""]
    lines += table(COLUMNS, _driver_metrics())
    return "\n".join(lines)


def _counter(row: CounterRow) -> list[str]:
    service = _moved_by(row.event, lambda record: row.counts(record.details))
    return [f"`{row.name}_total`", code(label_names(row.labels)), service, row.help]


def _histograms() -> Iterable[list[str]]:
    for row in HISTOGRAMS:
        labels = code(label_names(row.labels))
        yield [f"`{row.name}`", labels, _moved_by(row.event), row.help, _buckets(row.buckets)]
    for span in SPANS:
        yield [f"`{span.name}`", "", _moved_by(span.begin), span.help, _buckets(span.buckets)]
    yield [f"`{WINDOW.name}`", "", _moved_by(WINDOW.end), WINDOW.help, _buckets(WINDOW.buckets)]


def _buckets(buckets: tuple[float, ...]) -> str:
    return " ".join(f"{bucket:g}" for bucket in buckets)


def _gauges() -> Iterable[list[str]]:
    tables: tuple[tuple[str, tuple[GaugeRow, ...]], ...] = (
        (MANAGER, MANAGER_GAUGES),
        (MANAGER, MONITOR_GAUGES),
        (WORKER, WORKER_GAUGES),
    )
    for service, rows in tables:
        for row in rows:
            yield [f"`{row.name}`", "", service, row.help]


def _office() -> Iterable[list[str]]:
    for row in OFFICE_COUNTERS:
        yield [f"`{row.name}_total`", "", MANAGER, row.help]
    for row in OFFICE_GAUGES:
        yield [f"`{row.name}`", "", MANAGER, row.help]


def _driver_metrics() -> Iterable[list[str]]:
    for number, (name, text) in enumerate(DRIVER_METRICS):
        exported = f"{name}_total" if number < 2 else name
        yield [f"`{exported}`", "`actor`", "both", text]


def _moved_by(event: Event, counts: Callable[[Record], bool] = lambda _: True) -> str:
    """Return the services that were seen to say an event; else those that can say it."""
    kinds = {
        runs.kind_of(record.actor)
        for record in runs.records()
        if record.event == event and counts(record)
    }
    services = {SERVICE_OF[kind] for kind in kinds if kind in SERVICE_OF}
    services = services or {name for name, source in SOURCES.items() if _names(source, event)}
    if not services and _names(vm_protocol, event):
        services = set(SOURCES)
    assert services, f"{event}: no service says it"
    return "both" if len(services) == len(SOURCES) else services.pop()


def _names(package: object, event: Event) -> bool:
    """Tell whether a package's code names an event outside of the vocabulary itself."""
    (folder,) = getattr(package, "__path__", [])
    files = (file for file in Path(folder).glob("*.py") if file.name != "observations.py")
    return any(f"Event.{event.name}" in file.read_text(encoding="utf-8") for file in files)

"""What a service's `__main__` calls: settings, logs, metrics, spans, drivers, signals, exits."""

import asyncio
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from service_runtime import logs
from service_runtime.amqp.endpoint import EndpointError
from service_runtime.amqp.lost_session import TopologyMismatch, TopologyMissing
from service_runtime.crash import CrashAt
from service_runtime.gate import Gate
from service_runtime.http_server import serve_http
from service_runtime.metrics import Metrics, Shown, StateCollector, show_instance
from service_runtime.office import Office
from service_runtime.passage import DIRECT, Passage
from service_runtime.rabbit_driver import RabbitDriver
from service_runtime.settings import Settings, SettingsError, read_settings
from service_runtime.tracing.traced import traced
from vm_protocol.actor import Actor
from vm_protocol.gauges import GaugeRow
from vm_protocol.recovery import LogBroken
from vm_protocol.topology import Queue
from vm_protocol.wire import Observe, Record

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_INFRASTRUCTURE = 4

LOOP_STALL_S = 10.0
"""A service whose event loop has not run for this long is not healthy."""


_OURS = ("service_runtime", "vm_protocol", "vm_manager", "vcpu_worker")


@dataclass(frozen=True, slots=True)
class ServicePart:
    """One actor of a service, and the gauges that its state shows.

    `url` is the broker's for a connection as another user; empty: the service's. `office` is the
    queue whose single active consumer alone acts, and keeps its memory in the managers' log, with
    its prefetch.
    `is_at_rest` tells of a state whether an actor that is to end has finished; None: it may end at
    any time.
    """

    actor: Actor[Any]
    gauges: tuple[GaugeRow, ...] = ()
    url: str = ""
    office: tuple[Queue, int] | None = None
    is_at_rest: Callable[[Any], bool] | None = None


MakeParts = Callable[[Settings], Sequence[ServicePart]]


def serve(service: str, make_parts: MakeParts) -> int:
    """Run a service's actors until SIGTERM or SIGINT; return the process's exit code.

    Args:
        service: The service's name in log lines.
        make_parts: Makes the actors from the settings; each gets a connection of its own.
    """
    try:
        settings = read_settings(os.environ)
        logs.configure(settings.log_level)
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"{service}: {error}\n")
        return EXIT_USAGE
    structlog.contextvars.bind_contextvars(service=service, pid=os.getpid())
    logs.catch_what_nobody_does()
    try:
        with traced(service, settings.amqp_url) as trace:
            asyncio.run(_serve(service, settings, make_parts(settings), trace))
    except Exception as error:
        return _failed(_first(error))
    return 0


def _failed(error: BaseException) -> int:
    """Say why the service ends; return its exit code."""
    log = structlog.get_logger()
    match error:
        case TopologyMismatch():
            log.error(
                "broker.topology_mismatch",
                why=str(error),
                way_out="delete the queue or exchange that it names, or use another virtual host",
            )
            return EXIT_INFRASTRUCTURE
        case TopologyMissing():
            log.error(
                "broker.topology_missing",
                why=str(error),
                way_out="import the deployment's definitions, or set AMQP_TOPOLOGY=declare",
            )
            return EXIT_INFRASTRUCTURE
        case LogBroken():
            log.error("manager.log_broken", why=str(error))
            return EXIT_INFRASTRUCTURE
        case OSError() | EndpointError():
            log.error("service.failed", why=str(error))
            return EXIT_INFRASTRUCTURE
        case _:
            log.error("service.failed", why=repr(error), exc_info=error)
            return EXIT_BUG


def _first(error: BaseException) -> BaseException:
    """Return the first exception of nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Pulse:
    """Shows that the event loop runs: beats once a second, read from the HTTP thread."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    def beat(self) -> None:
        self._last_s = time.monotonic()
        asyncio.get_running_loop().call_later(1.0, self.beat)

    def is_alive(self) -> bool:
        return time.monotonic() - self._last_s < LOOP_STALL_S


async def _serve(
    service: str, settings: Settings, parts: Sequence[ServicePart], trace: Observe
) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    show_instance(registry, service, settings.replica or settings.worker_id)

    def observe(record: Record) -> None:
        logs.log(record)
        metrics.observe(record)
        trace(record)

    gate = Gate(settings.teardown_gate) if settings.teardown_gate else None
    crash = CrashAt(settings.teardown_crash_file) if settings.teardown_crash_file else None
    drivers, shown = _drivers(settings, parts, observe, gate or crash or DIRECT)
    registry.register(StateCollector(shown))

    def stop() -> None:
        for driver in drivers:
            driver.stop()

    failures: list[BaseException] = []
    _end_on_bug(stop, failures)
    # The signal stops all drivers in order: each still waits for its confirms.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _leaving(parts, drivers))
    log = structlog.get_logger()
    if gate is not None:
        await gate.connect()
    host, metrics_port = settings.metrics_host, settings.metrics_port
    with serve_http(registry, host, metrics_port, _probes(drivers)) as port:
        async with asyncio.TaskGroup() as group:
            for driver in drivers:
                group.create_task(_run(driver, stop))
            group.create_task(_say_ready(drivers, port))
    if gate is not None:
        gate.close()
    if failures:
        raise failures[0]
    log.info("service.stopped")


def _drivers(
    settings: Settings, parts: Sequence[ServicePart], observe: Observe, passage: Passage
) -> tuple[list[RabbitDriver], list[Shown]]:
    """Return a driver for each part, and what metrics show of both."""
    drivers: list[RabbitDriver] = []
    shown: list[Shown] = []
    for part in parts:
        office = Office(part.actor, *part.office) if part.office else None
        endpoint = settings.endpoint(part.url)
        if office is not None:
            office.writes_ahead = settings.teardown_write_ahead == "on"
            endpoint = replace(endpoint, heartbeat_s=settings.manager_heartbeat_s)
        driver = RabbitDriver(part.actor, endpoint, observe, passage=passage, office=office)
        drivers.append(driver)
        numbers = office.numbers if office else None
        shown.append(Shown(part.actor, driver.connectivity, part.gauges, numbers))
    return drivers, shown


def _leaving(parts: Sequence[ServicePart], drivers: Sequence[RabbitDriver]) -> Callable[[], None]:
    """Return what ends the drivers: those that have something to finish once they have done so.

    Called again, it ends them at once.
    """
    asked = count()

    def leave() -> None:
        is_first = next(asked) == 0
        for part, driver in zip(parts, drivers, strict=True):
            is_at_rest, actor = part.is_at_rest, part.actor
            if is_at_rest is None or not is_first:
                driver.stop()
            else:
                driver.leave(partial(_asked, is_at_rest, actor))

    return leave


def _asked(is_at_rest: Callable[[Any], bool], actor: Actor[Any]) -> bool:
    return is_at_rest(actor.state)


def _probes(drivers: Sequence[RabbitDriver]) -> dict[str, Callable[[], bool]]:
    """Return what the HTTP side answers, beside the metrics; they are asked on its threads."""
    pulse = _Pulse()
    pulse.beat()
    return {
        "/healthz": pulse.is_alive,
        "/readyz": lambda: all(driver.connectivity.is_connected for driver in drivers),
    }


async def _run(driver: RabbitDriver, stop_all: Callable[[], None]) -> None:
    """Run one driver; when it ends, for whatever reason, the others end as well."""
    try:
        await driver.run()
    finally:
        stop_all()


def _end_on_bug(stop: Callable[[], None], failures: list[BaseException]) -> None:
    """Make exceptions of our own in callbacks end the service; asyncio would only log them.

    Those of pika are logged: pika fails in callbacks when a connection is given up half-open (1.4),
    and the session reports what became of the connection.
    """

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and _is_ours(error):
            failures.append(error)
            stop()
        else:
            why = f"{context['message']}: {error!r}"
            structlog.get_logger().warning("service.callback_failed", why=why)

    asyncio.get_running_loop().set_exception_handler(failed)


def _is_ours(error: BaseException) -> bool:
    """Tell whether an exception was raised from within our own modules."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(frame.f_globals["__name__"].startswith(_OURS) for frame in frames)


async def _say_ready(drivers: Sequence[RabbitDriver], port: int) -> None:
    for driver in drivers:
        if not await driver.wait_ready():
            return
    structlog.get_logger().info(
        "service.ready", broker=drivers[0].connectivity.broker_version, metrics_port=port
    )

"""Whether spans are made at all, as the standard OTEL_* variables say it.

With none of them set nothing of OpenTelemetry is imported: `traced` gives a function that does
nothing. What becomes a span stands in `spans.py`. A service never fails for want of its traces.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from vm_protocol import limits
from vm_protocol.wire import Observe, Record

ENDPOINT_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTER_VARIABLE: Final = "OTEL_TRACES_EXPORTER"
PROTOCOL_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
DISABLED_VARIABLE: Final = "OTEL_SDK_DISABLED"
PROTOCOL: Final = "http/protobuf"


@contextmanager
def traced(
    service: str, url: str, environment: Mapping[str, str] = os.environ
) -> Iterator[Observe]:
    """Give what makes spans of records; at the end, have them exported within SHUTDOWN_MS.

    Args:
        service: The name of this process, unless OTEL_SERVICE_NAME has one.
        url: The broker's, for `server.address` and `server.port`.
        environment: Where the OTEL_* variables are; the SDK reads the process's own.
    """
    if not is_asked_for(environment):
        yield _ignore
        return
    try:
        from service_runtime.tracing.otlp import export_by_otlp
        from service_runtime.tracing.spans import Spans
    except ModuleNotFoundError as missing:
        _warn("tracing.unavailable", str(missing), "pip install 'teardown-lab[tracing]'")
        yield _ignore
        return
    with _heard(service):
        try:
            export = export_by_otlp(service)
        except ValueError as error:
            _warn("tracing.unavailable", str(error), "correct the OTEL_* variable")
            yield _ignore
            return
        spans = Spans(export, url)
        try:
            yield spans.observe
        finally:
            spans.close()
            export.close(limits.SHUTDOWN_MS / 1000)


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Tell whether the environment asks for spans that can be exported; say why one cannot."""
    if environment.get(DISABLED_VARIABLE, "").strip().lower() == "true":
        return False
    exporters = {name.strip() for name in environment.get(EXPORTER_VARIABLE, "").split(",")} - {""}
    if exporters and "otlp" not in exporters:
        if exporters != {"none"}:
            shown = ",".join(sorted(exporters))
            _warn("tracing.unsupported", f"{EXPORTER_VARIABLE}={shown}", "write otlp, or none")
        return False
    if not exporters and not _first(environment, ENDPOINT_VARIABLES):
        return False
    protocol = _first(environment, PROTOCOL_VARIABLES)
    if protocol not in ("", PROTOCOL):
        _warn("tracing.unsupported", f"the OTLP protocol is {protocol}", f"write {PROTOCOL}")
        return False
    return True


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _ignore(_: Record) -> None:
    """Make no span."""


def _warn(event: str, why: str, way_out: str) -> None:
    structlog.get_logger().warning(event, why=why, way_out=way_out)


class _ToOurLog(logging.Handler):
    """Turns what the SDK complains about into lines of ours; it does so on a thread of its own."""

    def __init__(self, service: str) -> None:
        super().__init__(logging.WARNING)
        self._service = service

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(service=self._service, pid=os.getpid())
        log.warning("tracing.export_failed", why=record.getMessage())


@contextmanager
def _heard(service: str) -> Iterator[None]:
    """Have the SDK's complaints, such as a collector that is away, in our log."""
    logger, handler = logging.getLogger("opentelemetry"), _ToOurLog(service)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True

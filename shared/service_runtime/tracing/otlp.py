"""Where spans go: to a collector, by OTLP over HTTP, as the OTEL_* variables say.

Imported only by `tracing.py`, once spans are asked for.
"""

import os
import threading
from importlib.metadata import version
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The conventions that the attributes follow."""

QUEUE_SPANS_MAX: Final = 2**16
"""Spans that wait for their export, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise: a teardown of
256 vCPUs makes some tens of thousands within seconds, and the SDK's 2,048 would drop most."""


class DerivedIds(IdGenerator):
    """Gives the ids that were derived for the next span, else random ones."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self.next_trace_id: int | None = None
        self.next_span_id: int | None = None

    def generate_trace_id(self) -> int:
        """Return the trace id of the next span, which has no parent."""
        taken, self.next_trace_id = self.next_trace_id, None
        return self._random.generate_trace_id() if taken is None else taken

    def generate_span_id(self) -> int:
        """Return the id of the next span."""
        taken, self.next_span_id = self.next_span_id, None
        return self._random.generate_span_id() if taken is None else taken


class Export:
    """A tracer provider of this process's own: nothing global is set."""

    def __init__(self, service: str, processor: SpanProcessor) -> None:
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        release = version("teardown-lab")
        about = {"service.version": release} | ({} if named else {"service.name": service})
        self.ids = DerivedIds()
        self._processor = processor
        provider = TracerProvider(
            resource=Resource.create(about), id_generator=self.ids, shutdown_on_exit=False
        )
        provider.add_span_processor(processor)
        self.tracer = provider.get_tracer("teardown-lab", release, schema_url=SCHEMA_URL)

    def close(self, seconds_max: float) -> None:
        """Export what waits; a collector that does not take it in time goes without."""
        closing = threading.Thread(target=self._processor.shutdown, name="spans", daemon=True)
        closing.start()
        closing.join(seconds_max)


def export_by_otlp(service: str) -> Export:
    """Return an export to where the OTEL_* variables say.

    Raises:
        ValueError: A variable has a value that the SDK cannot use.
    """
    size = None if os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else QUEUE_SPANS_MAX
    return Export(service, BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=size))

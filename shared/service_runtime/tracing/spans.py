"""Which record becomes which span.

A message's span id and trace id are in its `traceparent` before any span exists (recorder): the
send span takes them over, so that spans, history, logs and headers name the same things
(docs/decisions/0012-spans-from-records.md). All other spans have ids drawn by the SDK.

Imported only by `tracing.py`, once spans are asked for.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from json import dumps
from time import time_ns
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from service_runtime.amqp.endpoint import hosts_of
from service_runtime.tracing.destination_names import (
    Destination,
    consumed_from,
    dead_letter_of,
    sent_to,
)
from service_runtime.tracing.otlp import Export
from vm_protocol.message_ids import scope_of
from vm_protocol.observations import Event
from vm_protocol.recorder import span_id_of, trace_id_of
from vm_protocol.wire import Record

REMEMBERED_MAX: Final = 8192
"""Messages that were sent and handled here, by id; the oldest are forgotten first."""

_COMMANDS: Final = ("DestroyVm", "DestroyVcpu")
"""Messages whose processing is made of steps."""

Attributes = dict[str, str | int | bool]


@dataclass(slots=True)
class _Processing:
    """A delivery that is not settled yet, and the steps of it that have begun and not ended."""

    span: Span
    destination: Destination
    command: tuple[str, str | None, int | None] | None = None
    steps: dict[tuple[int | None, str | None, str], Span] = field(default_factory=dict)

    @property
    def context(self) -> SpanContext:
        return self.span.get_span_context()

    def give_up(self, why: str, at_ns: int) -> None:
        """End without a settlement."""
        self.span.set_attribute("error.type", why)
        self.span.set_status(Status(StatusCode.ERROR, why))
        self.end(at_ns)

    def end(self, at_ns: int) -> None:
        for step in self.steps.values():
            step.set_status(Status(StatusCode.ERROR, "not finished"))
            step.end(at_ns)
        self.span.end(at_ns)


class _Remembered(OrderedDict[Any, Any]):
    """The newest REMEMBERED_MAX of something."""

    def note(self, key: Any, value: Any) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > REMEMBERED_MAX:
            self.popitem(last=False)


def _server(url: str) -> Attributes:
    """Return the attributes that name the broker; of several hosts, nobody knows here which."""
    if len(hosts_of(url)) > 1:
        return {}
    parts = urlsplit(url)
    return {
        "server.address": parts.hostname or "localhost",
        "server.port": parts.port or (5671 if parts.scheme == "amqps" else 5672),
    }


class Spans:
    """Makes spans of one process's records, in the order in which they are observed."""

    def __init__(self, export: Export, url: str, now: Callable[[], int] = time_ns) -> None:
        self._tracer = export.tracer
        self._ids = export.ids
        self._now = now
        self._server = _server(url)
        self._open: dict[tuple[str, str, str], _Processing] = {}
        self._commands: dict[tuple[str, str | None, int | None], _Processing] = {}
        self._handled = _Remembered()
        self._sent = _Remembered()
        self._on: Mapping[Event, Callable[[Record], None]] = {
            Event.MESSAGE_SENT: self._message_sent,
            Event.MESSAGE_RECEIVED: self._message_received,
            Event.MESSAGE_ACKED: self._message_settled,
            Event.MESSAGE_REJECTED: self._message_settled,
            Event.STEP_STARTED: self._step_started,
            Event.STEP_FINISHED: self._step_finished,
            Event.DEAD_LETTER_CLASSIFIED: self._dead_letter,
        }

    def observe(self, record: Record) -> None:
        """Begin or end the spans that a record belongs to."""
        observer = self._on.get(record.event)
        if observer is not None:
            observer(record)

    def close(self) -> None:
        """End the open spans, those of deliveries that this process leaves unsettled."""
        for processing in self._open.values():
            processing.give_up("not-settled", self._now())
        self._open.clear()

    # --- messages --------------------------------------------------------------------------

    def _message_sent(self, record: Record) -> None:
        destination = sent_to(record.details["exchange"], record.details["routing_key"])
        body = dumps(record.details["body"], separators=(",", ":"), ensure_ascii=False)
        size: Attributes = {"messaging.message.body.size": len(body.encode())}
        own, parent = _context(record), self._causing(record)
        # The same message once more has the same id on the wire, but a span's must be unique.
        is_first = record.message_id not in self._sent
        self._sent.note(record.message_id, None)
        self._ids.next_trace_id = own.trace_id
        self._ids.next_span_id = own.span_id if is_first else None
        span = self._start(f"send {destination.template}", SpanKind.PRODUCER, record, parent)
        span.set_attributes(self._attributes("send", "send", destination, record) | size)
        if not is_first:
            span.add_link(own)
        span.end(self._end_ns(record))

    def _message_received(self, record: Record) -> None:
        destination = consumed_from(record.details["queue"], record.details["type"])
        sender = _context(record)
        span = self._start(f"process {destination.template}", SpanKind.CONSUMER, record, sender)
        span.set_attributes(self._attributes("process", "process", destination, record))
        span.add_link(sender)
        if record.details["redelivered"]:
            span.set_attribute("teardown.redelivered", True)
        processing = _Processing(span, destination)
        key = _delivery(record)
        if key in self._open:  # lost with its connection, and delivered again
            self._open[key].give_up("delivered-again", self._end_ns(record))
        self._open[key] = processing
        self._handled.note((record.actor, record.message_id), processing.context)
        if record.details["type"] in _COMMANDS:
            processing.command = (record.actor, record.vm, record.vcpu)
            self._commands[processing.command] = processing

    def _message_settled(self, record: Record) -> None:
        if record.message_id is None or record.traceparent is None:
            return  # no message of ours: it has no trace
        processing = self._open.pop(_delivery(record), None)
        destination = consumed_from(record.details["queue"], record.details.get("type"))
        if processing is not None:
            destination = processing.destination
        sender = _sent_as(record, record.message_id)
        rejected = record.event == Event.MESSAGE_REJECTED
        operation = "reject" if rejected else "ack"
        parent = processing.context if processing else sender
        at_ns = self._end_ns(record)
        settle = record.model_copy(update={"at_ns": at_ns})  # decided when its handler has ended
        span = self._start(f"{operation} {destination.template}", SpanKind.CLIENT, settle, parent)
        span.set_attributes(self._attributes(operation, "settle", destination, record))
        span.add_link(sender)
        for each in (span, processing.span if processing else None):
            if rejected and each is not None:
                reason = str(record.details["reason"])
                each.set_attribute("error.type", reason)
                each.set_attribute("teardown.requeue", bool(record.details["requeue"]))
                each.set_status(Status(StatusCode.ERROR, reason))
        span.end(at_ns)
        if processing is not None:
            processing.end(at_ns)
            if processing.command and self._commands.get(processing.command) is processing:
                del self._commands[processing.command]

    def _dead_letter(self, record: Record) -> None:
        """Make the monitor's handling of a dead letter a span, below the letter's sending."""
        if not record.message_id or record.vm is None:
            return
        details = record.details
        destination = dead_letter_of(details["queue"])
        sender = _sent_as(record, record.message_id)
        span = self._start(f"process {destination.template}", SpanKind.CONSUMER, record, sender)
        span.set_attributes(self._attributes("process", "process", destination, record))
        span.add_link(sender)
        for name in ("freed_by", "allocated_by"):
            if details[name]:
                link = {"teardown.link": name}
                span.add_link(_sent_as(record, details[name][0]), link)
        span.set_attribute("teardown.dead_letter.reason", str(details["reason"]))
        span.set_attribute("teardown.dead_letter.why", str(details["why"]))
        if details["invariant"]:
            span.set_attribute("error.type", str(details["invariant"]))
            span.set_status(Status(StatusCode.ERROR, str(details["invariant"])))
        span.end(self._end_ns(record))

    # --- steps -----------------------------------------------------------------------------

    def _step_started(self, record: Record) -> None:
        """Begin a step below its command: of the vCPU, or else of the VM."""
        command = self._command(record)
        if command is None:
            return
        name = str(record.details["name"])
        span = self._start(name, SpanKind.INTERNAL, record, command.context)
        span.set_attributes(_about(record))
        command.steps[record.vcpu, record.step, name] = span

    def _step_finished(self, record: Record) -> None:
        command = self._command(record)
        key = (record.vcpu, record.step, str(record.details["name"]))
        span = command.steps.pop(key, None) if command else None
        if span is not None:
            span.end(self._end_ns(record))

    def _command(self, record: Record) -> _Processing | None:
        of_vcpu = self._commands.get((record.actor, record.vm, record.vcpu))
        return of_vcpu or self._commands.get((record.actor, record.vm, None))

    # --- what all spans have -----------------------------------------------------------------

    def _causing(self, record: Record) -> SpanContext | None:
        """Return what a sent message hangs on: the processing of its cause here, if it is known."""
        if record.caused_by is None:
            return None
        known = self._handled.get((record.actor, record.caused_by))
        return known if isinstance(known, SpanContext) else _sent_as(record, record.caused_by)

    def _start(self, name: str, kind: SpanKind, record: Record, parent: SpanContext | None) -> Span:
        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(parent), context)
        return self._tracer.start_span(name, context, kind, start_time=record.at_ns)

    def _attributes(
        self, operation: str, kind: str, destination: Destination, record: Record
    ) -> Attributes:
        message_id = record.message_id or ""
        return {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": operation,
            "messaging.operation.type": kind,
            "messaging.destination.name": destination.name,
            "messaging.destination.template": destination.template,
            "messaging.rabbitmq.destination.routing_key": destination.routing_key,
            "messaging.message.id": message_id,
            "messaging.message.conversation_id": scope_of(message_id),
            **self._server,
            **_about(record),
        }

    def _end_ns(self, record: Record) -> int:
        """Return the time until which a record's handler may have run: `at_ns` is its begin."""
        return max(self._now(), record.at_ns)


def _about(record: Record) -> Attributes:
    said: Attributes = {"teardown.actor": record.actor}
    found = {
        "teardown.vm": record.vm,
        "teardown.vcpu": record.vcpu,
        "teardown.step": record.step,
        "teardown.message.type": record.details.get("type"),
        "teardown.generation": record.details.get("generation"),
    }
    return said | {name: value for name, value in found.items() if value is not None}


def _delivery(record: Record) -> tuple[str, str, str]:
    return record.actor, record.details["queue"], record.message_id or ""


def _context(record: Record) -> SpanContext:
    """Return the span that a record's traceparent names."""
    assert record.traceparent is not None, "every message has one"
    _, trace_id, span_id, _ = record.traceparent.split("-")
    return _remote(trace_id, span_id)


def _sent_as(record: Record, message_id: str) -> SpanContext:
    """Return the send span of a message, in the trace of a record about it."""
    parent = record.traceparent
    trace_id = parent.split("-")[1] if parent else trace_id_of(scope_of(message_id))
    return _remote(trace_id, span_id_of(message_id))


def _remote(trace_id: str, span_id: str) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=flags)

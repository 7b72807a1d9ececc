"""Stamps one actor's messages and numbers its records: everything that surrounds a core's output.

Pure except for its own counters: `seq` and Lamport time live here, never in a core's state, and
clocks are arguments.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from vm_protocol import codec
from vm_protocol.effects import Observed, Publish, Reject, Settle
from vm_protocol.message_ids import parse_message_id
from vm_protocol.observations import Event
from vm_protocol.topology import parse_mailbox
from vm_protocol.wire import Envelope, Record


@dataclass(frozen=True, slots=True)
class Cause:
    """The message whose handling is going on: its id, trace, Lamport time and type."""

    message_id: str | None = None
    traceparent: str | None = None
    lamport: int = 0
    type: str | None = None


NO_CAUSE = Cause()


@dataclass(frozen=True, slots=True)
class Send:
    """A Publish with its envelope: what the driver hands to the broker."""

    publish: Publish
    envelope: Envelope


def cause_of(envelope: Envelope, message_type: str) -> Cause:
    """Return the cause that a received message is to what its handler does."""
    return Cause(envelope.message_id, envelope.traceparent, envelope.lamport, message_type)


class Recorder:
    """Numbers and stamps one actor's records and messages.

    `entry` is the entry of a manager's log that is being handled, `ended` the last entries of the
    epochs before it, as the envelope says them.
    """

    def __init__(self, actor: str, epoch: int) -> None:
        self.actor = actor
        self.epoch = epoch
        self.entry: int | None = None
        self.ended: str | None = None
        self._seq = 0
        self._lamport = 0

    @property
    def position(self) -> tuple[int, int]:
        """Return (number of the next record, Lamport time)."""
        return self._seq, self._lamport

    def go_to(self, position: tuple[int, int]) -> None:
        """Go on from where another recorder of this actor stood."""
        self._seq, self._lamport = position

    def witness(self, lamport: int) -> None:
        """Advance the Lamport time past that of a received message."""
        self._lamport = max(self._lamport, lamport) + 1

    def record(self, event: Event, at_ns: int, cause: Cause, **fields: Any) -> Record:
        """Return the next record; `fields` are those of Record, `details` included."""
        record = Record(
            seq=self._seq,
            actor=self.actor,
            event=event,
            lamport=self._lamport,
            at_ns=at_ns,
            caused_by=fields.pop("caused_by", cause.message_id),
            traceparent=fields.pop("traceparent", cause.traceparent),
            **fields,
        )
        self._seq += 1
        return record

    def send(self, publish: Publish, at_ns: int, cause: Cause) -> tuple[Send, Record]:
        """Return the stamped message and the record of its sending."""
        # A sending gets a time of its own, so it is later than the record before it.
        self._lamport += 1
        message = publish.message
        message_id = message.identity()
        envelope = Envelope(
            message_id=message_id,
            correlation_id=publish.correlation_id,
            reply_to=publish.reply_to,
            caused_by=cause.message_id,
            traceparent=_traceparent(message.scope(), message_id, cause.traceparent),
            sender=self.actor,
            lamport=self._lamport,
            epoch=self.epoch,
            entry=self.entry,
            ended=self.ended,
        )
        record = self.record(
            Event.MESSAGE_SENT,
            at_ns,
            cause,
            vm=message.vm,
            vcpu=getattr(message, "vcpu", None),
            message_id=message_id,
            traceparent=envelope.traceparent,
            details=_sending(publish),
        )
        return Send(publish, envelope), record

    def settled(self, settle: Settle, at_ns: int, cause: Cause) -> Record:
        """Return the record of an acknowledgement or a reject."""
        details: dict[str, Any] = {"queue": settle.queue}
        # A delivery that was held may be settled by another message's handler, which knows no type.
        if cause.type is not None and cause.message_id == settle.message_id:
            details["type"] = cause.type
        event = Event.MESSAGE_ACKED
        if isinstance(settle, Reject):
            event = Event.MESSAGE_REJECTED
            details |= {"reason": str(settle.reason), "requeue": settle.requeue}
        vm, vcpu = _owner(settle.queue, settle.message_id)
        return self.record(
            event, at_ns, cause, vm=vm, vcpu=vcpu, message_id=settle.message_id, details=details
        )

    def observed(self, effect: Observed, at_ns: int, cause: Cause) -> Record:
        """Return the record of what a core observed."""
        return self.record(
            effect.event,
            at_ns,
            cause,
            vm=effect.vm,
            vcpu=effect.vcpu,
            step=effect.step,
            message_id=effect.message_id,
            details=dict(effect.details),
        )


def _sending(publish: Publish) -> dict[str, Any]:
    details: dict[str, Any] = {
        "type": publish.message.type,
        "exchange": publish.exchange,
        "routing_key": publish.routing_key,
        "body": codec.body_as_json(publish.message),
    }
    if publish.reply_to is not None:
        details["reply_to"] = publish.reply_to
    return details


def _owner(queue: str, message_id: str) -> tuple[str | None, int | None]:
    """Return the VM and vCPU that a settled delivery belongs to, as far as names tell."""
    mailbox = parse_mailbox(queue)
    if mailbox is not None:
        return mailbox.vm, mailbox.vcpu
    parsed = parse_message_id(message_id)
    return parsed.vm if parsed else None, None


def trace_id_of(scope: str) -> str:
    """Return the trace of a VM's incarnation: everything that its messages cause is in it."""
    return _digest(scope, 16)


def span_id_of(message_id: str) -> str:
    """Return the span id that a message's sending has, in its header and as a span."""
    return _digest(message_id, 8)


def _digest(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()


def _traceparent(scope: str, message_id: str, parent: str | None) -> str:
    """Return a W3C traceparent; trace and span ids are derived, so a simulated run repeats them."""
    # The trace id is handed on from message to message, so a VM's life is one trace.
    trace_id = parent.split("-")[1] if parent else trace_id_of(scope)
    return f"00-{trace_id}-{span_id_of(message_id)}-01"

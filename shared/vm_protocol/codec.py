"""Bytes and headers to messages, and back; bounds sizes and trusts nothing.

Properties follow AMQP 0-9-1's basic class; what it lacks travels in headers (HEADERS).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic import ValidationError

from vm_protocol import limits
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.message_ids import scope_of
from vm_protocol.messages import MESSAGES, Message
from vm_protocol.observations import Event
from vm_protocol.wire import Envelope, Record

CONTENT_TYPE: Final = "application/json"
SCHEMA_HEADER: Final = "x-schema"
HEADERS: Final = {
    "caused_by": "x-caused-by",
    "traceparent": "traceparent",
    "sender": "x-sender",
    "lamport": "x-lamport",
    "epoch": "x-epoch",
    "entry": "x-entry",
    "ended": "x-ended",
}
"""Envelope field -> AMQP header."""

PROPERTIES: Final = ("message_id", "correlation_id", "reply_to", "user_id")
"""Envelope fields that are AMQP properties of the same name."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A message as a broker carries it: body bytes, properties by name, headers by name.

    `unreadable` names the first header that the broker's client could not read; it and what it
    hides are not among the headers.
    """

    body: bytes
    properties: Mapping[str, Any]
    headers: Mapping[str, Any]
    unreadable: str | None = None

    def check_readable(self) -> None:
        """Pass a packet of which everything could be read.

        Raises:
            RemoteProtocolError: MALFORMED: with the name of the header.
        """
        if self.unreadable is not None:
            raise RemoteProtocolError(RejectReason.MALFORMED, f"header: {self.unreadable}"[:200])


def voice(sender: str, scope: str) -> str:
    """Return the name of what an actor says about one life of a VM (SetTimer.of)."""
    return f"{sender} {scope}"


def voice_of(packet: Packet) -> str:
    """Return whose voice a packet is, going by what it says of itself."""
    scope = scope_of(str(packet.properties.get("message_id")))
    return voice(str(packet.headers.get(HEADERS["sender"])), scope)


def encode(message: Message, envelope: Envelope) -> Packet:
    """Return the packet of a message.

    Raises:
        ValueError: The body exceeds MESSAGE_BYTES_MAX (our bug: limits.py relates the bounds).
    """
    body = message.model_dump_json().encode()
    if len(body) > limits.MESSAGE_BYTES_MAX:
        raise ValueError(f"{message.type}: body of {len(body)} bytes exceeds the bound")
    headers: dict[str, Any] = {SCHEMA_HEADER: limits.SCHEMA_VERSION}
    for field, header in HEADERS.items():
        value = getattr(envelope, field)
        if value is not None:
            headers[header] = value
    properties = {name: getattr(envelope, name) for name in PROPERTIES}
    properties |= {"type": message.type, "content_type": CONTENT_TYPE}
    return Packet(body, properties, headers)


def decode(packet: Packet) -> tuple[Message, Envelope]:
    """Return the message and its envelope.

    Raises:
        RemoteProtocolError: With the code and place of the first thing that is wrong.
    """
    packet.check_readable()
    if len(packet.body) > limits.MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(RejectReason.TOO_LARGE, f"body: {len(packet.body)} bytes")
    schema = packet.headers.get(SCHEMA_HEADER)
    # A decimal or a float may equal a whole number, and would not come back out of a log as such.
    if type(schema) is not int or schema != limits.SCHEMA_VERSION:
        raise RemoteProtocolError(RejectReason.WRONG_SCHEMA, f"header: {SCHEMA_HEADER}")
    message = _decode_body(packet.body)
    envelope = _decode_envelope(packet)
    if packet.properties.get("type") != message.type:
        raise RemoteProtocolError(RejectReason.MALFORMED, "property: type")
    # Receivers recognise duplicates by id, so an id that is not formed from its message is refused.
    if envelope.message_id != message.identity():
        raise RemoteProtocolError(RejectReason.MALFORMED, "property: message_id")
    return message, envelope


@lru_cache(maxsize=8)
def _decode_body(body: bytes) -> Message:
    """Return the message that a body says; a request to all vCPUs comes to a service many times.

    Of n vCPUs, its body names n recipients: decoded for each, that would be n * n for one request.
    """
    try:
        return MESSAGES.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        unknown = first["type"] in ("union_tag_invalid", "union_tag_not_found")
        reason = RejectReason.UNKNOWN_TYPE if unknown else RejectReason.MALFORMED
        place = ".".join(str(part) for part in first["loc"]) or first["type"]
        raise RemoteProtocolError(reason, f"body: {place}"[:200]) from None


def _decode_envelope(packet: Packet) -> Envelope:
    fields = {field: packet.headers.get(header) for field, header in HEADERS.items()}
    fields |= {name: packet.properties.get(name) for name in PROPERTIES}
    try:
        return Envelope.model_validate(fields)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"])
        raise RemoteProtocolError(RejectReason.MALFORMED, f"envelope: {place}") from None


def encode_records(records: tuple[Record, ...]) -> bytes:
    """Return a journal batch: one JSON record a line."""
    return "\n".join(record.to_line() for record in records).encode()


_LINE: Final = re.compile(
    rb'\{"schema":%d,"seq":[0-9]+,"actor":"[^"]*","event":"([a-z_.-]+)",.*\}'
    % limits.SCHEMA_VERSION
)
"""A line as `encode_records` writes it: whatever looks otherwise is decoded, and judged."""


def decode_records(body: bytes, skip: frozenset[Event] = frozenset()) -> tuple[Record, ...]:
    """Return the records of a journal batch.

    Args:
        body: The batch.
        skip: Events whose records the reader has no use for; their lines are not decoded.

    Raises:
        RemoteProtocolError: A line is no record of this schema version.
    """
    records = []
    skipped = {event.encode() for event in skip}
    for number, line in enumerate(body.splitlines(), start=1):
        found = _LINE.fullmatch(line) if skip else None
        if found is not None and found[1] in skipped:
            continue
        try:
            record = Record.model_validate_json(line)
        except ValidationError:
            raise RemoteProtocolError(RejectReason.MALFORMED, f"record {number}") from None
        if record.schema_version != limits.SCHEMA_VERSION:
            raise RemoteProtocolError(RejectReason.WRONG_SCHEMA, f"record {number}")
        records.append(record)
    return tuple(records)


def body_as_json(message: Message) -> dict[str, Any]:
    """Return a message's body as JSON data, for the history."""
    return message.model_dump(mode="json")

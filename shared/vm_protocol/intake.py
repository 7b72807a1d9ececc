"""Deliveries to inputs: what a packet from each kind of queue means to a core; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vm_protocol import codec, details, limits, testimony, topology
from vm_protocol.codec import Packet
from vm_protocol.effects import DeadLettered, JournalRead, Received
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.trust import ANYBODY, Trust
from vm_protocol.wire import Envelope, Record


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery: `number` tells deliveries of one consumer apart, and nothing else."""

    queue: str
    packet: Packet
    redelivered: bool
    number: int


def read_message(delivery: Delivery, trust: Trust = ANYBODY) -> tuple[Received, Envelope]:
    """Return what a packet from an ordinary queue means to a core, and its envelope.

    Raises:
        RemoteProtocolError: It is no message of this protocol, or its user may not send it in the
            name of this sender. The caller rejects it.
    """
    message, envelope = codec.decode(delivery.packet)
    trust.check(message, envelope.user_id, envelope.sender)
    received = Received(
        queue=delivery.queue,
        message=message,
        message_id=envelope.message_id,
        epoch=envelope.epoch,
        reply_to=envelope.reply_to,
        redelivered=delivery.redelivered,
        sender=envelope.sender,
        entry=envelope.entry or 0,
        ended=_pairs(envelope.ended),
    )
    return received, envelope


def _pairs(ended: str | None) -> tuple[tuple[int, int], ...]:
    """Return (epoch, last entry) for each epoch that a message says has ended."""
    pairs = (each.partition(":") for each in ended.split(",")) if ended else ()
    return tuple((int(epoch), int(entry)) for epoch, _, entry in pairs)


def read_journal(
    delivery: Delivery, skip: frozenset[Event] = frozenset(), trust: Trust = ANYBODY
) -> JournalRead:
    """Return a journal batch as an input, without the events that its reader skips.

    Raises:
        RemoteProtocolError: It is no batch of records; or a record has other details than its event
            has, or tells what its actor cannot know; or the records' actors are not those of the
            user who sent them. The caller skips it.
    """
    delivery.packet.check_readable()
    body = delivery.packet.body
    trust.check_records(_decoded(body, skip), delivery.packet.properties.get("user_id"))
    return JournalRead(_believable(body, skip))


@lru_cache(maxsize=8)
def _decoded(body: bytes, skip: frozenset[Event]) -> tuple[Record, ...]:
    """Return a batch's records; where several readers are in one process, they share them."""
    return codec.decode_records(body, skip)


@lru_cache(maxsize=8)
def _believable(body: bytes, skip: frozenset[Event]) -> tuple[Record, ...]:
    """Return a batch's records, each with its event's details and told by who can know them."""
    records = _decoded(body, skip)
    for record in records:
        details.check(record)
        testimony.check(record)
    return records


def read_dead_letter(delivery: Delivery, letter: str, trust: Trust = ANYBODY) -> DeadLettered:
    """Return a dead letter as an input; its newest death tells where and why (RabbitMQ: dlx).

    `x-death` is an array compressed by queue and reason, newest first. The message inside may be
    anything; if there is something wrong with it, `wrong` says what.

    Raises:
        RemoteProtocolError: It has no `x-death` as the broker writes it, so nothing has died here.
            The caller skips it.
    """
    death = _newest_death(delivery.packet.headers)
    message, envelope, wrong = _try_decode(delivery.packet, trust)
    message_id = delivery.packet.properties.get("message_id")
    return DeadLettered(
        letter=letter,
        reason=death.reason,
        queue=death.queue,
        message_id=message_id if isinstance(message_id, str) else "",
        message=message,
        wrong=wrong,
        redelivered=delivery.redelivered,
        sender=envelope.sender if envelope else "",
    )


class _Death(BaseModel):
    """What is read of an entry of `x-death`; the broker writes more (RabbitMQ: dlx)."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    reason: str = Field(max_length=limits.TEXT_CHARACTERS_MAX)
    queue: str = Field(max_length=limits.TEXT_CHARACTERS_MAX)


def _newest_death(headers: Mapping[str, Any]) -> _Death:
    deaths = headers.get("x-death")
    newest = deaths[0] if isinstance(deaths, list) and deaths else None
    try:
        return _Death.model_validate(newest)
    except ValidationError:
        raise RemoteProtocolError(RejectReason.MALFORMED, "header: x-death") from None


def _try_decode(packet: Packet, trust: Trust) -> tuple[Message | None, Envelope | None, str | None]:
    try:
        message, envelope = codec.decode(packet)
        trust.check(message, envelope.user_id, envelope.sender)
    except RemoteProtocolError as error:
        return None, None, str(error.reason)
    return message, envelope, None


def is_journal(queue: str) -> bool:
    """Tell whether a queue carries records instead of messages."""
    return queue == topology.JOURNAL_QUEUE.name


def is_dead_letters(queue: str) -> bool:
    """Tell whether a queue carries dead letters."""
    return queue == topology.DEAD_LETTERS_QUEUE.name

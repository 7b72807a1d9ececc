"""A message inside the simulated broker, and how a consumer gets it."""

from dataclasses import dataclass
from typing import Any

from vm_protocol.codec import Packet


@dataclass(frozen=True, slots=True)
class Death:
    """One entry of `x-death`: deaths of a message by queue and reason (dlx); its time is left out.

    `exchange` and `routing_keys` are those with which the message came to the queue.
    """

    queue: str
    reason: str
    count: int
    exchange: str
    routing_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a queue.

    Attributes:
        packet: What was published; its headers hold what earlier deaths have left there.
        exchange: Where it was published to last.
        routing_key: With which key.
        position: Its place among all messages of the broker, in the order of their arrival.
        expires_ns: When it expires; it keeps that when it is requeued (ttl).
        failures: Deliveries that failed, as far as queues count them (quorum-queues).
        returns: How often it came back to this queue, for whatever reason.
        deaths: Its deaths, the newest first.
    """

    packet: Packet
    exchange: str
    routing_key: str
    position: int
    expires_ns: int | None = None
    failures: int = 0
    returns: int = 0
    deaths: tuple[Death, ...] = ()


@dataclass(frozen=True, slots=True)
class Handed:
    """A message on its way to a consumer, to be settled by its number.

    `packet` has the headers that its queue adds. `redelivered` tells that it was delivered before;
    nobody may ever have looked at that delivery.
    """

    number: int
    actor: str
    queue: str
    message: Stored
    packet: Packet
    redelivered: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A `basic.cancel` on its way to a consumer: its queue is gone (consumer-cancel)."""

    actor: str
    queue: str


def with_headers(packet: Packet, more: dict[str, Any]) -> Packet:
    """Return a packet with more headers; those of the same name are replaced."""
    return Packet(packet.body, packet.properties, {**packet.headers, **more})

"""A message inside the simulated broker, and how a consumer gets it."""

from dataclasses import dataclass
from typing import Any, Final

from teardown_lab.simulator.errors import NotSimulated
from vm_protocol.codec import Packet

_PROPERTIES: Final = ("expiration", "priority")
_HEADERS: Final = ("CC", "BCC")


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

    def placed(self, position: int, expires_ns: int | None = None) -> "Stored":
        """Return the message as it comes into a queue; `replace` would take far longer."""
        return Stored(
            self.packet,
            self.exchange,
            self.routing_key,
            position,
            expires_ns,
            self.failures,
            self.returns,
            self.deaths,
        )


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


@dataclass(frozen=True, slots=True)
class Published:
    """The queues that a message reached; it is confirmed in any case (publishers, confirms)."""

    queues: tuple[str, ...]
    returned: bool


def refuse_unsimulated(packet: Packet) -> None:
    """Refuse what RabbitMQ would take notice of and this simulator would not.

    Raises:
        NotSimulated: There is a property or header without a rule here.
    """
    named = {**packet.properties, **packet.headers}
    asked = sorted(name for name in (*_PROPERTIES, *_HEADERS) if named.get(name) is not None)
    if asked:
        raise NotSimulated(f"a message's {', '.join(asked)} is not simulated")


def with_headers(packet: Packet, more: dict[str, Any]) -> Packet:
    """Return a packet with more headers; those of the same name are replaced."""
    return Packet(packet.body, packet.properties, {**packet.headers, **more})

"""What a rule's test may do with a broker, whichever it is; names are the test's own.

An operation that makes a broker deliver something is followed by `take` or `settle`: a real broker
works in its own time, and these wait, with a bound, for what is expected and then for quiet.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from teardown_lab.simulator.versions import BrokerVersion
from vm_protocol.topology import ArgumentValue, Queue

Deaths = tuple[tuple[str, str, int, str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Delivery:
    """A delivery, comparable between brokers; `deaths` is the essence of `x-death`.

    `headers` holds the other headers that brokers add. `tag` settles it and is not compared.
    """

    queue: str
    body: str
    redelivered: bool = False
    delivery_count: int | None = None
    acquired_count: int | None = None
    deaths: Deaths = ()
    headers: tuple[tuple[str, Any], ...] = ()
    client: str = field(default="", compare=False)
    tag: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Gone:
    """A consumer was told that its queue is gone."""

    queue: str


@dataclass(frozen=True)
class Sent:
    """How a publish ended: whether it was confirmed, and returned before that."""

    confirmed: bool
    returned: bool


class Refused(Exception):
    """The broker closes the channel; `code` is the reply code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code


class Broker(Protocol):
    """The operations of rules; `version` is whose rules are expected."""

    version: BrokerVersion

    def exchange(self, name: str, kind: str = "direct") -> None:
        """Declare an exchange."""

    def declare(self, queue: Queue) -> None:
        """Declare a queue and its bindings, or raise Refused."""

    def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind a queue, or raise Refused."""

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Unbind a queue."""

    def delete(self, queue: str) -> None:
        """Delete a queue."""

    def publish(
        self,
        exchange: str,
        key: str,
        body: str,
        *,
        mandatory: bool = False,
        headers: Mapping[str, Any] | None = None,
    ) -> Sent:
        """Publish and wait for the confirm, or raise Refused."""

    def consume(self, client: str, queue: str, prefetch: int, begin: str = "first") -> None:
        """Consume a queue with a client's own connection, or raise Refused."""

    def cancel(self, client: str, queue: str) -> None:
        """Cancel a consumer."""

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge."""

    def reject(self, delivery: Delivery, *, requeue: bool) -> None:
        """Reject by `basic.reject`."""

    def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        """Reject by `basic.nack`."""

    def lose(self, client: str) -> None:
        """Cut a client's connection, as its death does."""

    def close(self, client: str) -> None:
        """Close a client's connection in order, without settling anything."""

    def wait(self, milliseconds: int) -> None:
        """Let time pass."""

    def settle(
        self, counts: Mapping[str, int], ready: Mapping[str, int | None]
    ) -> Mapping[str, int | None]:
        """Wait until clients have got this many events and queues hold this many messages.

        Return how many the queues do hold.
        """

    def events(self, client: str) -> tuple[Delivery | Gone, ...]:
        """Return all that a client has got so far on its present connection."""


class Session:
    """A broker with the small helpers that tests use."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._seen: dict[str, int] = {}
        broker.exchange("in")
        broker.exchange("all", "fanout")
        broker.exchange("dead", "fanout")

    @property
    def version(self) -> BrokerVersion:
        """Return whose rules are expected."""
        return self.broker.version

    def queue(self, name: str, kind: str = "classic", **arguments: ArgumentValue) -> None:
        """Declare a queue that is bound to `in` with its name; `max_length=1` is x-max-length."""
        self.broker.declare(queue_of(name, kind, **arguments))

    def dead_letter_queue(self, name: str = "graveyard", kind: str = "classic") -> None:
        """Declare the queue behind the exchange `dead`."""
        self.broker.declare(Queue(name, (("x-queue-type", kind),), (("dead", ""),)))

    def send(self, key: str, *bodies: str, exchange: str = "in", **more: Any) -> None:
        """Publish messages; all must be confirmed."""
        for body in bodies:
            sent = self.broker.publish(exchange, key, body, **more)
            assert sent == Sent(confirmed=True, returned=False)

    def take(self, client: str, count: int) -> list[Delivery]:
        """Return the next deliveries of a client; there must be exactly so many."""
        seen = self._seen.get(client, 0)
        self.broker.settle({client: seen + count}, {})
        events = self.broker.events(client)[seen:]
        assert len(events) == count, f"{client} got {len(events)} events, not {count}: {events}"
        self._seen[client] = seen + count
        deliveries = [event for event in events if isinstance(event, Delivery)]
        assert len(deliveries) == count, events
        return deliveries

    def take_gone(self, client: str) -> Gone:
        """Return the next event of a client, which must be a cancellation."""
        seen = self._seen.get(client, 0)
        self.broker.settle({client: seen + 1}, {})
        (event,) = self.broker.events(client)[seen:]
        self._seen[client] = seen + 1
        assert isinstance(event, Gone), event
        return event

    def lose(self, client: str) -> None:
        """Cut a client's connection; its next operation opens another."""
        self.broker.lose(client)
        self._seen.pop(client, None)

    def close(self, client: str) -> None:
        """Close a client's connection in order; its next operation opens another."""
        self.broker.close(client)
        self._seen.pop(client, None)

    def ready(self, queue: str, expected: int | None) -> None:
        """Wait until a queue holds so many ready messages, and assert that it does."""
        assert self.broker.settle({}, {queue: expected}) == {queue: expected}

    def drain(self, queue: str, count: int, client: str = "drain") -> list[Delivery]:
        """Consume all of a queue, which must be so much; the connection is closed afterwards."""
        self.broker.consume(client, queue, prefetch=count + 10)
        found = self.take(client, count)
        for delivery in found:
            self.broker.ack(delivery)
        self.close(client)
        return found


def queue_of(name: str, kind: str, **arguments: ArgumentValue) -> Queue:
    """Return a queue that is bound to the exchange `in` with its own name."""
    given = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
    return Queue(name, (("x-queue-type", kind), *given.items()), (("in", name),))


def bodies(deliveries: Iterable[Delivery]) -> list[str]:
    """Return what deliveries carry, in their order."""
    return [delivery.body for delivery in deliveries]


def essence_of(
    queue: str,
    body: bytes,
    redelivered: bool,
    headers: Mapping[str, Any],
    rename: Mapping[str, str],
) -> dict[str, Any]:
    """Return the fields of a Delivery from what a broker has delivered.

    Args:
        queue: The queue's name for the test.
        body: The body.
        redelivered: The flag.
        headers: All headers.
        rename: Names at the broker to names in the test.
    """
    deaths = tuple(
        (
            rename.get(str(entry["queue"]), str(entry["queue"])),
            str(entry["reason"]),
            int(entry["count"]),
            rename.get(str(entry["exchange"]), str(entry["exchange"])),
            tuple(rename.get(key, key) for key in entry["routing-keys"]),
        )
        for entry in headers.get("x-death") or ()
        if isinstance(entry, Mapping) and "count" in entry
    )
    others = tuple(
        (name, rename.get(value, value) if isinstance(value, str) else value)
        for name, value in sorted(headers.items())
        if name.startswith(("x-first-death", "x-last-death", "x-stream-offset"))
    )
    return {
        "queue": queue,
        "body": body.decode(),
        "redelivered": redelivered,
        "delivery_count": headers.get("x-delivery-count"),
        "acquired_count": headers.get("x-acquired-count"),
        "deaths": deaths,
        "headers": others,
    }

"""A broker in memory, with the RabbitMQ semantics that the orderings need.

Each rule names its page of RabbitMQ's documentation. Not modelled yet: TTL, length limits, lost
connections, confirms (a publish here is never lost) and differences between broker versions.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from vm_protocol.codec import Packet
from vm_protocol.topology import EXCHANGES, SHARED_QUEUES, Queue

DeathKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a queue; `arrival` orders all messages of the broker."""

    packet: Packet
    exchange: str
    routing_key: str
    arrival: int
    delivery_count: int = 0

    @property
    def redelivered(self) -> bool:
        """Tell whether it was delivered before."""
        return self.delivery_count > 0


@dataclass(slots=True)
class Consumer:
    """A consumer of one queue; `next_offset` is its place in a stream."""

    actor: str
    prefetch: int
    unsettled_count: int = 0
    next_offset: int = 0


@dataclass(slots=True)
class _QueueState:
    queue: Queue
    ready: deque[Stored] = field(default_factory=deque)
    log: list[Stored] = field(default_factory=list)
    consumers: deque[Consumer] = field(default_factory=deque)

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.queue.arguments)


@dataclass(frozen=True, slots=True)
class Handed:
    """A message handed to a consumer, to be settled by its number."""

    number: int
    actor: str
    queue: str
    message: Stored


class SimulatedBroker:
    """Exchanges, queues and consumers; delivers the oldest message that may be delivered."""

    def __init__(self) -> None:
        self._exchanges = {exchange.name: exchange.type for exchange in EXCHANGES}
        self._bindings: dict[tuple[str, str], dict[str, None]] = {}
        self._queues: dict[str, _QueueState] = {}
        self._unsettled: dict[int, tuple[Handed, Consumer]] = {}
        self._arrivals = count()
        self._numbers = count()
        for queue in SHARED_QUEUES:
            self.declare(queue)

    # --- topology ------------------------------------------------------------------------

    def declare(self, queue: Queue) -> None:
        """Declare a queue and its bindings; repeating it changes nothing (queues)."""
        self._queues.setdefault(queue.name, _QueueState(queue))
        for exchange, key in queue.bindings:
            self.bind(queue.name, exchange, key)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind a queue; a second equal binding is the same one (tutorials: routing)."""
        self._bindings.setdefault((exchange, key), {})[queue] = None

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Unbind a queue; what was routed before stays in it."""
        self._bindings.get((exchange, key), {}).pop(queue, None)

    def delete(self, queue: str) -> tuple[str, ...]:
        """Delete a queue; its messages are not dead-lettered (dlx). Return its consumers."""
        state = self._queues.pop(queue, None)
        for bound in self._bindings.values():
            bound.pop(queue, None)
        return tuple(consumer.actor for consumer in state.consumers) if state else ()

    def has_queue(self, queue: str) -> bool:
        """Tell whether a queue exists."""
        return queue in self._queues

    def queue_names(self) -> tuple[str, ...]:
        """Return the names of all queues."""
        return tuple(self._queues)

    # --- consumers -----------------------------------------------------------------------

    def consume(self, actor: str, queue: str, prefetch: int, begin: str = "first") -> None:
        """Add a consumer; a stream's reader begins at its first or at its next record."""
        state = self._queues[queue]
        if any(consumer.actor == actor for consumer in state.consumers):
            return
        offset = len(state.log) if begin == "next" else 0
        state.consumers.append(Consumer(actor, prefetch, next_offset=offset))

    def cancel(self, actor: str, queue: str) -> None:
        """Cancel a consumer; what it holds stays unsettled (consumers)."""
        state = self._queues.get(queue)
        if state is not None:
            kept = (consumer for consumer in state.consumers if consumer.actor != actor)
            state.consumers = deque(kept)

    def next_delivery(self) -> Handed | None:
        """Hand out the oldest message that some consumer has room for, None when there is none.

        Consumers of one queue take turns (consumers: fair dispatch); a single active consumer is
        always the first (consumers: single-active-consumer); streams hand out copies.
        """
        found: tuple[int, _QueueState, Consumer] | None = None
        for state in self._queues.values():
            for consumer in self._eligible(state):
                head = self._head(state, consumer)
                if head is not None and (found is None or head.arrival < found[0]):
                    found = (head.arrival, state, consumer)
        return None if found is None else self._hand(found[1], found[2])

    def _eligible(self, state: _QueueState) -> tuple[Consumer, ...]:
        consumers = tuple(state.consumers)
        if state.arguments.get("x-single-active-consumer"):
            consumers = consumers[:1]
        return tuple(one for one in consumers if one.unsettled_count < one.prefetch)

    def _head(self, state: _QueueState, consumer: Consumer) -> Stored | None:
        if state.queue.kind == "stream":
            waiting = consumer.next_offset < len(state.log)
            return state.log[consumer.next_offset] if waiting else None
        return state.ready[0] if state.ready else None

    def _hand(self, state: _QueueState, consumer: Consumer) -> Handed:
        if state.queue.kind == "stream":
            message = state.log[consumer.next_offset]
            consumer.next_offset += 1
        else:
            message = state.ready.popleft()
            if not state.arguments.get("x-single-active-consumer"):
                state.consumers.remove(consumer)
                state.consumers.append(consumer)
        consumer.unsettled_count += 1
        handed = Handed(next(self._numbers), consumer.actor, state.queue.name, message)
        self._unsettled[handed.number] = (handed, consumer)
        return handed

    # --- messages ------------------------------------------------------------------------

    def publish(self, exchange: str, key: str, packet: Packet) -> int:
        """Route a message; return how many queues it reached (0: a mandatory one returns)."""
        fanout = self._exchanges[exchange] == "fanout"
        targets = tuple(self._bindings.get((exchange, "" if fanout else key), ()))
        for name in targets:
            state = self._queues[name]
            stored = Stored(packet, exchange, key, next(self._arrivals))
            (state.log if state.queue.kind == "stream" else state.ready).append(stored)
        return len(targets)

    def ack(self, number: int) -> None:
        """Acknowledge a delivery (confirms: consumer acknowledgements)."""
        self._settle(number)

    def reject(self, number: int, *, requeue: bool) -> None:
        """Reject a delivery: dead-letter it, or requeue it at its old place.

        A quorum queue counts each return and dead-letters beyond its limit (quorum-queues: poison
        message handling).
        """
        handed = self._settle(number)
        state = self._queues.get(handed.queue)
        if state is None or state.queue.kind == "stream":
            return
        if not requeue:
            self._dead_letter(state, handed.message, "rejected")
            return
        again = replace(handed.message, delivery_count=handed.message.delivery_count + 1)
        limit = state.arguments.get("x-delivery-limit")
        if limit is not None and again.delivery_count > limit:
            self._dead_letter(state, again, "delivery_limit")
        else:
            state.ready.appendleft(again)

    def _settle(self, number: int) -> Handed:
        handed, consumer = self._unsettled.pop(number)
        consumer.unsettled_count -= 1
        return handed

    def _dead_letter(self, state: _QueueState, message: Stored, reason: str) -> None:
        """Publish to the dead-letter exchange with `x-death`, newest first (dlx)."""
        target = state.arguments.get("x-dead-letter-exchange")
        if target is None:
            return
        death = {
            "reason": reason,
            "queue": state.queue.name,
            "count": 1,
            "exchange": message.exchange,
            "routing-keys": [message.routing_key],
        }
        former = list(message.packet.headers.get("x-death", ()))
        for entry in former:
            if (entry["queue"], entry["reason"]) == (death["queue"], reason):
                death["count"] = entry["count"] + 1
                former.remove(entry)
                break
        headers = {**message.packet.headers, "x-death": [death, *former]}
        packet = Packet(message.packet.body, message.packet.properties, headers)
        self.publish(target, message.routing_key, packet)

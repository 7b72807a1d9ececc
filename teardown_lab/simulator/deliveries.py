"""What the broker has sent to consumers: on its way, and not settled yet."""

from dataclasses import dataclass

from teardown_lab.simulator.consumers import Consumer
from teardown_lab.simulator.errors import PreconditionFailed
from teardown_lab.simulator.messages import Cancelled, Handed, Stored
from teardown_lab.simulator.queues import OrdinaryQueue
from teardown_lab.simulator.streams import Stream
from vm_protocol.codec import Packet

ConsumerEvent = Handed | Cancelled
Home = OrdinaryQueue | Stream


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A delivery that is neither acknowledged nor rejected; `home` is the queue it came from."""

    handed: Handed
    consumer: Consumer
    home: Home


class Deliveries:
    """Deliveries by number, and the events that consumers have not taken yet, oldest first."""

    def __init__(self) -> None:
        self._last_number = 0
        self._unsettled: dict[int, Unsettled] = {}
        self._on_their_way: dict[int, ConsumerEvent] = {}

    def hand(
        self, home: OrdinaryQueue, consumer: Consumer, message: Stored, *, is_direct: bool
    ) -> None:
        """Send a message of an ordinary queue to a consumer."""
        packet = home.as_delivered(message)
        redelivered = home.is_redelivery(message, is_direct=is_direct)
        self._send(home, consumer, message, packet, redelivered)

    def copy(self, home: Stream, consumer: Consumer, message: Stored, packet: Packet) -> None:
        """Send a message of a stream to a consumer."""
        self._send(home, consumer, message, packet, redelivered=False)

    def _send(
        self, home: Home, consumer: Consumer, message: Stored, packet: Packet, redelivered: bool
    ) -> None:
        number = self._next_number()
        handed = Handed(number, consumer.actor, home.name, message, packet, redelivered)
        consumer.unsettled_count += 1
        self._unsettled[number] = Unsettled(handed, consumer, home)
        self._on_their_way[number] = handed

    def cancel(self, consumer: Consumer) -> None:
        """Tell a consumer that its queue is gone, after what is on its way to it."""
        self._on_their_way[self._next_number()] = Cancelled(consumer.actor, consumer.queue)

    def next_event(self) -> ConsumerEvent | None:
        """Take the oldest event, None when there is none."""
        if not self._on_their_way:
            return None
        return self._on_their_way.pop(next(iter(self._on_their_way)))

    def withdraw(self, actor: str, queue: str) -> list[Handed]:
        """Take what is on its way from one queue to one consumer."""
        withdrawn = [
            event
            for event in self._on_their_way.values()
            if isinstance(event, Handed) and (event.actor, event.queue) == (actor, queue)
        ]
        for handed in withdrawn:
            del self._on_their_way[handed.number]
        return withdrawn

    def settle(self, number: int) -> Unsettled:
        """Take an unsettled delivery.

        Raises:
            PreconditionFailed: It is settled already, or its channel was lost (confirms).
        """
        unsettled = self._unsettled.pop(number, None)
        if unsettled is None:
            raise PreconditionFailed(f"unknown delivery tag {number}")
        unsettled.consumer.unsettled_count -= 1
        return unsettled

    def lose(self, actor: str) -> list[Unsettled]:
        """Take all that an actor holds or that is on its way to it, oldest first."""
        gone = [number for number, event in self._on_their_way.items() if event.actor == actor]
        for number in gone:
            del self._on_their_way[number]
        lost = [each for each in self._unsettled.values() if each.handed.actor == actor]
        return [self.settle(each.handed.number) for each in lost]

    def held_by(self, actor: str) -> tuple[Handed, ...]:
        """Return what an actor has not settled, oldest first."""
        return tuple(each.handed for each in self._unsettled.values() if each.handed.actor == actor)

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

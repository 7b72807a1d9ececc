"""Deliveries that are not settled yet, and the acks and rejects that wait for confirms.

A delivery tag means something in its own session only (RabbitMQ: confirms).
"""

from dataclasses import dataclass, field

from service_runtime.amqp.session import AmqpSession
from vm_protocol.effects import Ack, Settle

Tag = tuple[AmqpSession, int]


class HeldDeliveries:
    """Delivery tags by queue and message; the same message may be held several times."""

    def __init__(self) -> None:
        self._tags: dict[tuple[str, str], list[Tag]] = {}

    def hold(self, queue: str, key: str, tag: Tag) -> None:
        """Keep a delivery until it is settled."""
        self._tags.setdefault((queue, key), []).append(tag)

    def release(self, settle: Settle) -> list[Tag]:
        """Return the tags that an effect settles, and forget them."""
        return self._tags.pop((settle.queue, settle.message_id), [])

    def clear(self) -> None:
        """Forget all: their session is lost, and the broker delivers them again."""
        self._tags.clear()


@dataclass(slots=True)
class Settlements:
    """Acks and rejects of one batch, performed when the batch is confirmed."""

    settled: list[tuple[Tag, Settle]] = field(default_factory=list)

    def perform(self) -> None:
        """Send them; those of a lost session mean nothing any more."""
        for (session, tag), settle in self.settled:
            if isinstance(settle, Ack):
                session.ack(tag)
            else:
                session.reject(tag, requeue=settle.requeue)

"""A stream over AMQP 0-9-1: a log that each consumer reads by its own offset (streams)."""

from collections.abc import Iterator
from typing import Final

from teardown_lab.simulator.arguments import arguments_of
from teardown_lab.simulator.consumers import Consumer
from teardown_lab.simulator.messages import Stored, with_headers
from vm_protocol.codec import Packet
from vm_protocol.topology import Queue

OFFSET_HEADER: Final = "x-stream-offset"


class Stream:
    """Deliveries take nothing away, never fail and are never redelivered.

    A consumer needs a prefetch and must settle; acknowledging, rejecting and requeueing all mean
    the same: room for the next one. Nothing is dead-lettered (streams: feature comparison).
    """

    def __init__(self, queue: Queue) -> None:
        arguments_of(queue)
        self.queue = queue
        self.name = queue.name
        self.consumers: list[Consumer] = []
        self._log: list[Stored] = []

    @property
    def length(self) -> int:
        """Count the messages; the next one gets this as its offset."""
        return len(self._log)

    def append(self, message: Stored) -> None:
        """Append a published message."""
        self._log.append(message)

    def readable(self) -> Iterator[tuple[Consumer, Stored, Packet]]:
        """Take what consumers have room for, each in the order of offsets."""
        for consumer in self.consumers:
            while consumer.has_room and consumer.offset < len(self._log):
                message = self._log[consumer.offset]
                packet = with_headers(message.packet, {OFFSET_HEADER: consumer.offset})
                consumer.offset += 1
                yield consumer, message, packet

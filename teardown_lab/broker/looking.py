"""What a broker says of its queues and of itself, asked without changing anything."""

from collections.abc import Iterable
from dataclasses import dataclass

import pika.exceptions

from teardown_lab.broker.address import connected, publish
from teardown_lab.broker.errors import BrokerUnavailable
from vm_protocol import codec, topology


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """A queue as the broker tells of it: messages that nobody holds, and consumers."""

    ready_count: int
    consumer_count: int


def look_at(
    url: str, names: Iterable[str], seconds_max: float = 5.0
) -> dict[str, QueueSeen | None]:
    """Return what is known of each queue (a passive declare); None for one that does not exist.

    A queue that this user may not look up, or that is out of reach for the moment, is left out.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    seen: dict[str, QueueSeen | None] = {}
    with connected(url, seconds_max) as connection:
        channel = connection.channel()
        for name in names:
            try:
                told = channel.queue_declare(name, passive=True).method
                seen[name] = QueueSeen(told.message_count, told.consumer_count)
            except pika.exceptions.ChannelClosedByBroker as error:
                if error.reply_code == _NOT_FOUND and "no queue" in error.reply_text:
                    seen[name] = None
                channel = connection.channel()
    return seen


def blocks_publishers(url: str) -> bool:
    """Return whether the broker blocks publishers now, for a memory or disk alarm.

    It tells that only to a connection that publishes (RabbitMQ: Blocked Connection Notifications).
    So this one publishes a batch of no records to the journal, whose readers take nothing from it.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    exchange, key = topology.JOURNAL_QUEUE.bindings[0]
    nothing = codec.Packet(codec.encode_records(()), {"type": "Records"}, {})
    try:
        publish(url, exchange, [(key, nothing)])
    except BrokerUnavailable as error:
        if isinstance(error.__cause__, pika.exceptions.ConnectionBlockedTimeout):
            return True
        raise
    return False


_NOT_FOUND = 404

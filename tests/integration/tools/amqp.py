"""Raw AMQP, as a stranger speaks it: queues looked up, messages published, deletions."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from vm_protocol.codec import Packet


@contextmanager
def channel_to(url: str) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        yield connection.channel()


def existing(url: str, names: Sequence[str]) -> list[str]:
    """Return those of the queues that are on the broker."""
    found = []
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        for name in names:
            channel = connection.channel()
            try:
                channel.queue_declare(name, passive=True)
            except pika.exceptions.ChannelClosedByBroker as error:
                assert error.reply_code == 404, error  # noqa: PT017 - 404 is the answer "no"
            else:
                found.append(name)
                channel.close()
    return found


def left_over(url: str, names: Sequence[str], seconds: float = 10.0) -> list[str]:
    """Return those of the queues that are still there when they should be gone.

    VmRemoved says that the manager forgot the VM and began to delete its mailboxes; nothing waits
    for the broker's answer, which takes a moment, and seconds while a node of a cluster is away.
    """
    end = time.monotonic() + seconds
    while (found := existing(url, names)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def delete(url: str, names: Iterable[str]) -> None:
    """Delete queues; those that are not there are fine."""
    with channel_to(url) as channel:
        for name in names:
            channel.queue_delete(name)


def publish(channel: BlockingChannel, exchange: str, key: str, packet: Packet) -> None:
    """Publish a packet; the channel must have confirms on for a queue to be sure of it."""
    properties = pika.BasicProperties(
        headers=dict(packet.headers), delivery_mode=2, **packet.properties
    )
    channel.basic_publish(exchange, key, packet.body, properties, mandatory=True)

"""What somebody does to a lab's queues from outside, and a journal that is long."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pika
import pika.exceptions
import pytest
from integration.test_poison import elect
from integration.tools.amqp import channel_to, publish
from integration.tools.fuzz import encode
from integration.tools.scrape import gained, scrape
from integration.tools.teardowns import hold_teardown
from pika.adapters.blocking_connection import BlockingChannel
from support.needs import need_server

from teardown_lab.experiment.lab import Lab, LabOptions, open_lab
from vm_protocol import limits, messages, topology
from vm_protocol.codec import Packet

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

PATIENCE_S = 60.0
REPLIES = topology.MANAGER_REPLIES_QUEUE
QUEUES = [REPLIES, topology.JOURNAL_QUEUE, topology.MANAGER_COMMANDS_QUEUE]
REMOVE = encode(messages.RemoveVm(vm="vm-x"), "nobody", limits.MANAGER_EPOCH)


def lab_at(url: str) -> Iterator[Lab]:
    need_server()
    with open_lab(LabOptions(broker=url, workers=2, vcpus=8), print) as lab:
        elect(lab, REMOVE)
        yield lab


@pytest.fixture
def lab(own_node: str) -> Iterator[Lab]:
    yield from lab_at(own_node)


def is_bound(url: str, exchange: str, key: str, packet: Packet) -> bool:
    """Tell whether a message with this key reaches a queue."""
    with channel_to(url) as channel:
        channel.confirm_delivery()
        try:
            publish(channel, exchange, key, packet)
        except pika.exceptions.UnroutableError:
            return False
    return True


@pytest.mark.parametrize(
    "queue", [REPLIES, topology.JOURNAL_QUEUE, topology.MANAGER_COMMANDS_QUEUE]
)
def test_a_queue_that_somebody_unbinds_is_bound_again(
    lab: Lab, history: Path, queue: topology.Queue
) -> None:
    url = lab.provided.url or ""
    ((exchange, key),) = queue.bindings
    packet = Packet(b"", {"type": "Records"}, {}) if queue == topology.JOURNAL_QUEUE else REMOVE
    with channel_to(url) as channel:
        channel.queue_unbind(queue.name, exchange, key)
    assert not is_bound(url, exchange, key, packet)

    deadline = time.monotonic() + PATIENCE_S
    while not (bound := is_bound(url, exchange, key, packet)) and time.monotonic() < deadline:
        time.sleep(0.5)

    assert bound
    hold_teardown(lab, history)


def wait_for_messages(channel: BlockingChannel, queue: str, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while channel.queue_declare(queue, passive=True).method.message_count < count:
        assert time.monotonic() < deadline, f"{queue} does not tell {count} messages"
        time.sleep(0.2)


def test_a_monitor_reads_no_more_of_a_long_journal_than_the_bound(
    own_node: str, history: Path
) -> None:
    """Junk beyond the bound is not read: what is read of it is counted as skipped.

    A stream is read by whole chunks, of some thousand messages each where they came quickly.
    """
    bound, surplus = limits.LOOK_BACK_MESSAGES_MAX, 9_000
    with open_lab(LabOptions(broker=own_node, workers=1, vcpus=8), print):
        pass
    with channel_to(own_node) as channel:
        for _ in range(bound + surplus):
            channel.basic_publish(topology.RECORDS.name, topology.JOURNAL_QUEUE.name, b"junk")
        # A stream's number of messages is told some seconds late, and the bound goes by it.
        wait_for_messages(channel, topology.JOURNAL_QUEUE.name, bound + surplus)

    for lab in lab_at(own_node):
        assert lab.stack is not None
        hold_teardown(lab, history)
        counters = scrape(lab.stack.metrics_urls)
        grown = gained(Counter(), counters, "teardown_messages_skipped_total")

    assert bound - 500 < sum(grown.values()) < bound + surplus

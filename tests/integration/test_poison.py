"""One message that nobody could work on: no service ends over it, and none loses its connection."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.tools.amqp import channel_to, publish
from integration.tools.fuzz import NOWHERE, encode
from integration.tools.raw_amqp import raw_publisher
from integration.tools.scrape import gained, scrape
from integration.tools.teardowns import hold_teardown
from support.needs import need_server

from teardown_lab.experiment.lab import Lab, LabOptions, open_lab
from teardown_lab.own_broker.private_node import PrivateNode
from vm_protocol import limits, messages, topology
from vm_protocol.codec import Packet

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

VCPUS = 8
PATIENCE_S = 60.0
BEYOND_9999 = b"T" + struct.pack(">Q", 2**60)


@pytest.fixture
def lab(fresh_node: PrivateNode) -> Iterator[Lab]:
    need_server()
    with open_lab(LabOptions(broker=fresh_node.url, workers=2, vcpus=VCPUS), print) as lab:
        yield lab


def services(lab: Lab) -> list[Any]:
    assert lab.stack is not None
    return list(lab.stack.services)


def counters(lab: Lab) -> Any:
    assert lab.stack is not None
    return scrape(lab.stack.metrics_urls)


def total(lab: Lab, before: Any, name: str) -> int:
    return sum(gained(before, counters(lab), name).values())


def wait_until_gained(lab: Lab, before: Any, name: str, count: int) -> int:
    """Wait until a counter has grown by so much, or patience ends; return by how much it has."""
    deadline = time.monotonic() + PATIENCE_S
    while (grown := total(lab, before, name)) < count and time.monotonic() < deadline:
        time.sleep(0.2)
    return grown


def record(**changed: object) -> bytes:
    """Return a record that only looks right: a request whose recipients are no list."""
    flush = messages.TlbFlush(vm="vm-x", generation=1, recipients=(0,))
    good: dict[str, object] = {
        "schema": 1,
        "seq": 0,
        "actor": "lab",
        "event": "message.sent",
        "vm": "vm-x",
        "message_id": flush.identity(),
        "lamport": 1,
        "at_ns": time.time_ns(),
        "details": {
            "type": "TlbFlush",
            "exchange": "vm.requests",
            "routing_key": "vm-x",
            "body": flush.model_dump(mode="json"),
        },
    }
    return json.dumps(good | changed).encode()


def sent(body: object) -> dict[str, object]:
    """Return the details of a request with this body."""
    return {"type": "TlbFlush", "exchange": "e", "routing_key": "k", "body": body}


POISONS = {
    "recipients that are a number": record(details=sent({"recipients": 5})),
    "no more than a body": record(details={"type": "TlbFlush", "body": {"recipients": 5}}),
    "recipients that hold lists": record(details=sent({"recipients": [[0]]})),
    "a time of 400 digits": record().replace(b'"at_ns": ', b'"at_ns": ' + b"9" * 400),
    "a number of 400 digits": record().replace(b'"seq": 0', b'"seq": ' + b"9" * 400),
    "a queue that is a list": record(event="message.acked", details={"queue": [1]}),
    "a reason that is an object": record(
        event="message.rejected", details={"queue": "q", "reason": {}, "requeue": False}
    ),
}


def test_records_that_only_look_right_are_skipped_and_end_nobody(lab: Lab, history: Path) -> None:
    before = counters(lab)
    with channel_to(lab.provided.url or "") as channel:
        channel.confirm_delivery()
        for body in POISONS.values():
            channel.basic_publish(topology.RECORDS.name, topology.JOURNAL_QUEUE.name, body)

    skipped = wait_until_gained(lab, before, "teardown_messages_skipped_total", len(POISONS))

    assert skipped == len(POISONS)
    assert [service.process.poll() for service in services(lab)] == [None] * 3
    assert total(lab, before, "teardown_broker_reconnects_total") == 0
    hold_teardown(lab, history)


def elect(lab: Lab, packet: Packet) -> None:
    """Have the manager take its first command, with which it begins to consume replies."""
    before = counters(lab)
    with channel_to(lab.provided.url or "") as channel:
        publish(channel, topology.COMMANDS.name, topology.MANAGER_COMMANDS_QUEUE.name, packet)
    assert wait_until_gained(lab, before, "teardown_acks_total", 1) == 1


def peers_queues(lab: Lab) -> list[tuple[str, str]]:
    """Return every queue that somebody else publishes to, by exchange and key."""
    replies, commands = topology.REPLIES.name, topology.COMMANDS.name
    workers = [service.name for service in services(lab)[1:]]
    return [
        (commands, topology.MANAGER_COMMANDS_QUEUE.name),
        (replies, topology.MANAGER_REPLIES_QUEUE.name),
        (topology.PLACEMENT.name, topology.PLACEMENT_QUEUE.name),
        *((commands, topology.worker_commands(worker).name) for worker in workers),
        *((replies, topology.worker_replies(worker).name) for worker in workers),
    ]


def test_headers_that_the_client_library_cannot_read_are_malformed_and_lose_no_connection(
    lab: Lab, history: Path
) -> None:
    packet = encode(messages.RemoveVm(vm="vm-x"), NOWHERE, limits.MANAGER_EPOCH)
    elect(lab, packet)
    before = counters(lab)
    with raw_publisher(lab.provided.url or "") as publisher:
        queues = peers_queues(lab)
        for exchange, key in queues:
            publisher.publish(exchange, key, packet, (b"when", BEYOND_9999))
        nowhere = Packet(record(), {"type": "Records"}, {})
        journal = topology.JOURNAL_QUEUE.name
        publisher.publish(topology.RECORDS.name, journal, nowhere, (b"when", BEYOND_9999))
        publisher.publish(topology.DEAD_LETTERS.name, "", packet, (b"when", BEYOND_9999))

    dead = wait_until_gained(lab, before, "teardown_dead_letters_total", len(queues))
    skipped = wait_until_gained(lab, before, "teardown_messages_skipped_total", 2)

    after = counters(lab)
    letters = gained(before, after, "teardown_dead_letters_total")
    assert (dead, skipped) == (len(queues), 2)
    assert {why for _, _, why in letters} == {"malformed"}
    assert gained(before, after, "teardown_rejects_total") == {("malformed",): len(queues)}
    assert total(lab, before, "teardown_broker_reconnects_total") == 0
    assert [service.process.poll() for service in services(lab)] == [None] * 3
    hold_teardown(lab, history)

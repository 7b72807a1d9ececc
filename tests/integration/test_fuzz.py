"""A thousand messages that nobody should send: no service dies, each is accounted for."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import pytest
from integration.tools.amqp import publish
from integration.tools.fuzz import (
    ACKED,
    NOWHERE,
    SKIPPED,
    Fuzzed,
    Fuzzer,
    dead,
    encode,
)
from integration.tools.scrape import gained, scrape
from integration.tools.teardowns import hold_teardown
from pika.adapters.blocking_connection import BlockingChannel
from support.randomness import seeded

from teardown_lab.experiment.lab import Lab, LabOptions, open_lab
from teardown_lab.own_broker.private_node import PrivateNode
from vm_protocol import codec, limits, messages, topology
from vm_protocol.codec import Packet
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.messages import SIGNS_OF_LIFE, Message
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

MESSAGES = 1_000
VCPUS = 8
LIVE = "live"
PATIENCE_S = 60.0


class Stranger:
    """Publishes as anybody may who can reach the broker, and reads the journal along."""

    def __init__(self, connection: pika.BlockingConnection) -> None:
        self._connection = connection
        self.records: list[Record] = []
        self.channel: BlockingChannel = connection.channel()
        self.channel.confirm_delivery()
        self.queue = topology.client_replies("stranger")
        self.channel.queue_declare(self.queue.name, exclusive=True)
        for exchange, key in self.queue.bindings:
            self.channel.queue_bind(self.queue.name, exchange, key)

    def publish(self, exchange: str, key: str, packet: Packet) -> None:
        """Publish, and have the broker say that a queue has it."""
        publish(self.channel, exchange, key, packet)

    def ask(self, message: Message) -> Message:
        """Send a command to the manager; return its answer."""
        packet = encode(message, self.queue.name, limits.MANAGER_EPOCH)
        self.publish(topology.COMMANDS.name, topology.MANAGER_COMMANDS_QUEUE.name, packet)
        answers = self.channel.consume(
            self.queue.name, auto_ack=True, inactivity_timeout=PATIENCE_S
        )
        method, properties, body = next(answers)
        self.channel.cancel()
        assert method is not None, f"no answer to {message}"
        assert properties is not None
        assert body is not None
        names = ("message_id", "correlation_id", "reply_to", "type")
        named = {name: getattr(properties, name) for name in names}
        return codec.decode(Packet(body, named, properties.headers or {}))[0]

    def follow_journal(self) -> None:
        """Read the journal from its next record on."""
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=limits.STREAM_PREFETCH)

        def read(channel: BlockingChannel, method: Any, _: Any, body: bytes) -> None:
            channel.basic_ack(method.delivery_tag)
            with suppress(RemoteProtocolError):  # our own junk
                self.records += codec.decode_records(body)

        arguments = {"x-stream-offset": "next"}
        channel.basic_consume(topology.JOURNAL_QUEUE.name, read, arguments=arguments)

    def fates_seen(self, count: int) -> Counter[str]:
        """Return how messages ended, as the services say it, once so many have."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            told = (each for each in self.records if each.event in FATES)
            own = (each for each in told if each.details.get("type") not in SIGNS_OF_LIFE)
            seen = Counter(FATES[each.event] for each in own)
            if seen.total() >= count or time.monotonic() > deadline:
                return seen
            self._connection.process_data_events(time_limit=1)


FATES = {
    Event.DEAD_LETTER_CLASSIFIED: "dead",
    Event.MESSAGE_SKIPPED: SKIPPED,
    Event.MESSAGE_ACKED: ACKED,
}


@pytest.fixture
def lab(fresh_node: PrivateNode) -> Iterator[Lab]:
    with open_lab(LabOptions(broker=fresh_node.url, workers=2, vcpus=VCPUS), print) as lab:
        yield lab


@pytest.fixture
def stranger(lab: Lab) -> Iterator[Stranger]:
    assert lab.provided.url is not None
    with stranger_at(lab.provided.url) as stranger:
        yield stranger


@contextmanager
def stranger_at(url: str) -> Iterator[Stranger]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    yield Stranger(connection)
    # pika rejects what it is given after a cancel, and a stream closes the connection over that.
    with suppress(pika.exceptions.ConnectionClosedByBroker):
        connection.close()


def workers_of(lab: Lab) -> tuple[str, ...]:
    assert lab.stack is not None
    return tuple(service.name for service in lab.stack.services[1:])


def test_a_thousand_fuzzed_messages_are_all_accounted_for(
    lab: Lab, stranger: Stranger, history: Path
) -> None:
    assert lab.stack is not None
    pids = [service.process.pid for service in lab.stack.services]
    created = stranger.ask(messages.CreateVm(vm=LIVE, scenario=Scenario(vcpus=1, ticker=False)))
    assert isinstance(created, messages.VmCreated)
    before = scrape(lab.stack.metrics_urls)
    fuzzed = list(Fuzzer(seeded("fuzz"), workers_of(lab), LIVE).make(MESSAGES))

    stranger.follow_journal()
    for each in fuzzed:
        stranger.publish(each.exchange, each.key, each.packet)
    seen = stranger.fates_seen(MESSAGES)

    after = scrape(lab.stack.metrics_urls)
    hold_accounting(fuzzed, seen, lambda name: gained(before, after, name))
    assert [service.process.poll() for service in lab.stack.services] == [None] * 3
    assert lab.stack.answers()
    assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    removed = stranger.ask(messages.RemoveVm(vm=LIVE))
    assert isinstance(removed, messages.VmRemoved)
    hold_teardown(lab, history)


def hold_accounting(fuzzed: list[Fuzzed], seen: Counter[str], grown: Any) -> None:
    wanted = Counter(each.fate for each in fuzzed)
    print(dict(wanted))
    dead_count = sum(count for fate, count in wanted.items() if fate.startswith("dead"))
    assert seen == {
        name: count
        for name, count in (
            ("dead", dead_count),
            (SKIPPED, wanted[SKIPPED]),
            (ACKED, wanted[ACKED]),
        )
        if count
    }
    by_why: Counter[str] = Counter()
    for (invariant, _, why), count in grown("teardown_dead_letters_total").items():
        assert invariant == "none", why
        by_why[dead(why)] += count
    assert by_why == {fate: n for fate, n in wanted.items() if fate.startswith("dead")}
    assert grown("teardown_messages_skipped_total") == {(): wanted[SKIPPED]}
    assert grown("teardown_acks_total") == {(): wanted[ACKED]}
    assert grown("teardown_dead_letters_republished_total") == {}
    assert by_why.total() + wanted[SKIPPED] + wanted[ACKED] == MESSAGES


def test_a_lamport_time_at_the_end_of_time_stops_nobody(
    fresh_node: PrivateNode, history: Path
) -> None:
    """AMQP's largest number is a Lamport time that no later message could exceed."""
    with (
        open_lab(LabOptions(broker=fresh_node.url, workers=2, vcpus=VCPUS), print) as lab,
        stranger_at(fresh_node.url) as stranger,
    ):
        _poison_the_workers(lab, stranger)

        hold_teardown(lab, history)


def _poison_the_workers(lab: Lab, stranger: Stranger) -> None:
    done = messages.UnloadDone(vm="ghost", vcpu=0, step="3.0", position=1, generation=1)
    for worker in workers_of(lab):
        packet = encode(done, None, limits.MANAGER_EPOCH)
        headers = {**packet.headers, codec.HEADERS["lamport"]: 2**63 - 1}
        key = topology.worker_replies(worker).name
        stranger.publish(topology.REPLIES.name, key, replace(packet, headers=headers))


@pytest.mark.parametrize("reply_to", [NOWHERE, topology.MANAGER_REPLIES_QUEUE.name])
def test_a_placement_without_a_vm_gives_its_capacity_back(
    own_node: str, history: Path, reply_to: str
) -> None:
    """Twice as many as all workers can hold: of a VM that nobody has, as a killed run leaves."""
    with (
        open_lab(LabOptions(broker=own_node, workers=2, vcpus=VCPUS), print) as lab,
        stranger_at(own_node) as stranger,
    ):
        for vcpu in range(2 * VCPUS):
            place = messages.PlaceVcpu(
                vm="ghost",
                vcpu=vcpu,
                contexts=((), ()),
                async_pf=0,
                nested=False,
                avic=False,
                in_guest=False,
                fence_ms=1,
            )
            packet = encode(place, reply_to, limits.MANAGER_EPOCH)
            stranger.publish(topology.PLACEMENT.name, topology.PLACEMENT_QUEUE.name, packet)

        hold_teardown(lab, history)

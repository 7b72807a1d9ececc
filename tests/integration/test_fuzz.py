"""A thousand messages that nobody should send: no service dies, and each of them is accounted for."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest
from integration.tools.fuzz import ACKED, REPUBLISHED, SKIPPED, Fuzzed, Fuzzer, dead, encode
from integration.tools.scrape import gained, scrape
from pika.adapters.blocking_connection import BlockingChannel
from support import expectations
from support.randomness import seeded

from teardown_lab.broker.private_node import PrivateNode
from teardown_lab.experiment.lab import Lab, LabOptions, RunOptions, open_lab
from vm_manager.catalogue import catalogue_entry
from vm_protocol import codec, limits, messages, topology
from vm_protocol.codec import Packet
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

pytestmark = pytest.mark.rabbitmq

MESSAGES = 1_000
VCPUS = 8
LIVE = "live"
PATIENCE_S = 20.0


class Stranger:
    """Publishes as anybody may who can reach the broker, and reads the journal along."""

    def __init__(self, connection: pika.BlockingConnection) -> None:
        self._connection = connection
        self.channel: BlockingChannel = connection.channel()
        self.channel.confirm_delivery()
        self.queue = topology.client_replies("stranger")
        self.channel.queue_declare(self.queue.name, exclusive=True)
        for exchange, key in self.queue.bindings:
            self.channel.queue_bind(self.queue.name, exchange, key)

    def publish(self, exchange: str, key: str, packet: Packet) -> None:
        """Publish, and have the broker say that a queue has it."""
        properties = pika.BasicProperties(
            headers=dict(packet.headers), delivery_mode=2, **packet.properties
        )
        self.channel.basic_publish(exchange, key, packet.body, properties, mandatory=True)

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

    @contextmanager
    def journal(self) -> Iterator[Iterator[Record]]:
        """Give the records from now on; they end when none comes for PATIENCE_S."""
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=limits.STREAM_PREFETCH)
        deliveries = channel.consume(
            topology.JOURNAL_QUEUE.name,
            arguments={"x-stream-offset": "next"},
            inactivity_timeout=PATIENCE_S,
        )
        yield _records(channel, deliveries)
        channel.close()


def _records(channel: BlockingChannel, deliveries: Iterator[Any]) -> Iterator[Record]:
    for method, _, body in deliveries:
        if method is None:
            return
        channel.basic_ack(method.delivery_tag)
        try:
            yield from codec.decode_records(body)
        except RemoteProtocolError:
            continue  # our own junk


FATES = {
    Event.DEAD_LETTER_CLASSIFIED: lambda record: "dead",
    Event.DEAD_LETTER_REPUBLISHED: lambda record: REPUBLISHED,
    Event.MESSAGE_SKIPPED: lambda record: SKIPPED,
    Event.MESSAGE_ACKED: lambda record: ACKED,
}


@pytest.fixture
def lab(lone_node: PrivateNode) -> Iterator[Lab]:
    with open_lab(LabOptions(broker=lone_node.url, workers=2, vcpus=VCPUS), print) as lab:
        yield lab


@pytest.fixture
def stranger(lab: Lab) -> Iterator[Stranger]:
    assert lab.provided.url is not None
    with pika.BlockingConnection(pika.URLParameters(lab.provided.url)) as connection:
        yield Stranger(connection)


def workers_of(lab: Lab) -> tuple[str, ...]:
    assert lab.stack is not None
    return tuple(service.name for service in lab.stack.services[1:])


def hold_teardown(lab: Lab, history: Path) -> None:
    """Tear a VM down that needs all capacity there is."""
    ordering = catalogue_entry("unload-in-destroy-wipe-last").ordering
    options = RunOptions(timeout_s=20, history=history)
    judgement = lab.run(ordering, Scenario(vcpus=VCPUS), 2, options).judgement
    cell = expectations.wipe_last(VCPUS, "distinct", "shadow")
    assert judgement.notes == ()
    assert judgement.counts.dead_letters == len(judgement.violations) == cell.use_after_free
    assert judgement.counts.unload_flush_requests == cell.unload_flush_requests


def fates_seen(records: Iterator[Record], count: int) -> Counter[str]:
    """Return how messages ended, as the services say it, once so many have."""
    seen: Counter[str] = Counter()
    for record in records:
        if record.event in FATES:
            seen[FATES[record.event](record)] += 1
        if seen.total() == count:
            break
    return seen


def test_a_thousand_fuzzed_messages_are_all_accounted_for(
    lab: Lab, stranger: Stranger, history: Path
) -> None:
    assert lab.stack is not None
    pids = [service.process.pid for service in lab.stack.services]
    created = stranger.ask(messages.CreateVm(vm=LIVE, scenario=Scenario(vcpus=1, ticker=False)))
    assert isinstance(created, messages.VmCreated)
    before = scrape(lab.stack.metrics_urls)
    fuzzed = list(Fuzzer(seeded("fuzz"), workers_of(lab), LIVE).make(MESSAGES))

    with stranger.journal() as records:
        for each in fuzzed:
            stranger.publish(each.exchange, each.key, each.packet)
        seen = fates_seen(records, MESSAGES)

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
            (REPUBLISHED, wanted[REPUBLISHED]),
        )
        if count
    }
    by_why: Counter[str] = Counter()
    for (invariant, _, why), count in grown("teardown_dead_letters_total").items():
        assert invariant == "none"
        by_why[dead(why)] += count
    assert by_why == {fate: n for fate, n in wanted.items() if fate.startswith("dead")}
    assert grown("teardown_messages_skipped_total") == {(): wanted[SKIPPED]}
    assert grown("teardown_acks_total") == {(): wanted[ACKED]}
    republished = grown("teardown_dead_letters_republished_total").get((), 0)
    assert republished == wanted[REPUBLISHED]
    assert by_why.total() + wanted[SKIPPED] + wanted[ACKED] + republished == MESSAGES


def test_a_placement_without_a_mailbox_gives_its_capacity_back(
    lab: Lab, stranger: Stranger, history: Path
) -> None:
    """Twice as many as all workers can hold: each is forgotten as its mailbox is not there."""
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
        packet = encode(place, stranger.queue.name, limits.MANAGER_EPOCH)
        stranger.publish(topology.PLACEMENT.name, topology.PLACEMENT_QUEUE.name, packet)

    hold_teardown(lab, history)

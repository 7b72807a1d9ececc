"""The driver's parts by themselves, and what it does with a core that is wrong."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from integration.tools.amqp import channel_to, delete, publish
from integration.tools.fuzz import encode
from structlog.testing import capture_logs

from service_runtime.amqp.confirms import Batch, ConfirmTracker, Outgoing
from service_runtime.amqp.consumption import CLOCK_SKEW, StreamPositions
from service_runtime.amqp.endpoint import Endpoint
from service_runtime.rabbit_driver import RabbitDriver
from teardown_lab.own_broker.private_node import PrivateNode
from vm_protocol import limits, messages, topology
from vm_protocol.actor import Actor
from vm_protocol.codec import Packet
from vm_protocol.effects import Bind, Consume, Effect, Input, Started

QUEUE = topology.client_replies("wrong-core")


def outgoing(number: int, exchange: str = "replies") -> Outgoing:
    return Outgoing(exchange, str(number), Packet(b"", {}, {}), mandatory=False)


def tracked(count: int) -> tuple[ConfirmTracker, list[Batch], list[int]]:
    """Return a tracker of publishes 1..count, each the only one of its batch."""
    tracker, batches, settled = ConfirmTracker(), [], []
    for number in range(1, count + 1):
        batch = Batch(lambda number=number: settled.append(number), open_count=1)  # type: ignore[misc]
        tracker.published(outgoing(number), batch)
        batch.seal()
        batches.append(batch)
    return tracker, batches, settled


def keys(publications: list[tuple[Outgoing, Batch]]) -> list[int]:
    return [int(each.routing_key) for each, _ in publications]


def test_a_multiple_confirm_settles_all_up_to_its_tag() -> None:
    tracker, _, settled = tracked(5)

    tracker.confirmed(2, multiple=False)
    tracker.confirmed(4, multiple=True)
    tracker.confirmed(4, multiple=True)

    assert settled == [2, 1, 3, 4]
    assert keys(tracker.unconfirmed()) == [5]


def test_what_is_refused_stays_unconfirmed_in_its_place() -> None:
    tracker, _, settled = tracked(4)

    assert keys(tracker.refused(2, multiple=True)) == [1, 2]
    tracker.confirmed(3, multiple=False)

    assert settled == [3]
    assert keys(tracker.unconfirmed()) == [1, 2, 4]
    assert tracker.awaits("replies", "1")
    assert not tracker.awaits("replies", "3")
    assert keys(tracker.take_refused()) == [1, 2]
    assert keys(tracker.unconfirmed()) == [4]


def test_a_reader_goes_on_behind_what_it_has_read() -> None:
    positions = StreamPositions()
    assert positions.start("journal", "first") == "first"
    positions.read("journal", {"x-stream-offset": 41})
    positions.read("other", {"x-stream-offset": 7})
    positions.read("journal", {"x-stream-offset": "junk"})
    assert positions.start("journal", "first") == 42
    assert positions.start("other", "first") == "first"


def test_a_reader_of_a_time_begins_before_it_and_goes_on_behind_what_it_has_read() -> None:
    positions = StreamPositions()
    begin_ns = 1_700_000_000_999_999_999
    before = datetime.fromtimestamp(1_700_000_000, UTC) - CLOCK_SKEW
    assert positions.start("journal", begin_ns) == before
    assert positions.start("journal", begin_ns) == before
    positions.read("journal", {"x-stream-offset": 41})
    assert positions.start("journal", begin_ns) == 42


def test_a_reader_of_what_is_next_misses_nothing_while_it_is_away() -> None:
    positions = StreamPositions()
    assert positions.start("journal", "next") == "next"
    assert isinstance(positions.start("journal", "next"), datetime)


def test_only_our_exchanges_and_amqps_keys_are_possible() -> None:
    assert outgoing(1).is_possible
    assert not outgoing(1, "").is_possible
    assert not outgoing(1, "no-such-exchange").is_possible
    assert not Outgoing("replies", "k" * 256, Packet(b"", {}, {}), mandatory=True).is_possible


@dataclass(frozen=True)
class WrongCore:
    """Takes any message for a state that cannot be."""

    actor: str = "wrong"

    def initial(self) -> int:
        return 0

    def step(self, state: int, event: Input) -> tuple[int, tuple[Effect, ...]]:
        if isinstance(event, Started):
            return state, (Consume(QUEUE, 1),)
        raise AssertionError("impossible transition")


@pytest.mark.rabbitmq
def test_a_core_that_is_wrong_ends_its_driver(lone_node: PrivateNode) -> None:
    async def run() -> None:
        driver = RabbitDriver(Actor(WrongCore()), Endpoint(lone_node.url), lambda _: None)
        running = asyncio.create_task(driver.run())
        await driver.wait_ready()
        packet = encode(messages.RemoveVm(vm="x"), None, limits.MANAGER_EPOCH)
        with channel_to(lone_node.url) as channel:
            publish(channel, topology.REPLIES.name, QUEUE.name, packet)
        async with asyncio.timeout(60):
            await running

    with pytest.raises(AssertionError, match="impossible transition"):
        asyncio.run(run())
    delete(lone_node.url, [QUEUE.name])


@dataclass(frozen=True)
class InventiveCore:
    """Asks for what no driver knows."""

    actor: str = "inventive"

    def initial(self) -> int:
        return 0

    def step(self, state: int, event: Input) -> tuple[int, tuple[Effect, ...]]:
        unknown: Any = object()
        return state, (Consume(QUEUE, 1), unknown)


@pytest.mark.rabbitmq
def test_an_action_that_no_driver_knows_is_not_confirmed(lone_node: PrivateNode) -> None:
    driver = RabbitDriver(Actor(InventiveCore()), Endpoint(lone_node.url), lambda _: None)

    async def run() -> None:
        async with asyncio.timeout(60):
            await driver.run()

    with pytest.raises(AssertionError, match="unreachable"):
        asyncio.run(run())
    delete(lone_node.url, [QUEUE.name])


@dataclass(frozen=True)
class HopelessCore:
    """Binds what is not there, which the broker answers by closing the channel."""

    actor: str = "hopeless"

    def initial(self) -> int:
        return 0

    def step(self, state: int, event: Input) -> tuple[int, tuple[Effect, ...]]:
        return state, (Bind(topology.Mailbox("no-such-vm", 0)),)


@pytest.mark.rabbitmq
def test_sessions_that_are_lost_over_the_same_action_come_ever_less_often(
    lone_node: PrivateNode,
) -> None:
    async def run() -> None:
        driver = RabbitDriver(Actor(HopelessCore()), Endpoint(lone_node.url), lambda _: None)
        running = asyncio.create_task(driver.run())
        async with asyncio.timeout(30):
            while driver.connectivity.reconnect_count < 4:
                await asyncio.sleep(0.01)
        driver.stop()
        await running

    with capture_logs() as lines:
        asyncio.run(run())

    lost = [line["retry_ms"] for line in lines if line["event"] == "broker.connection_lost"]
    assert lost[:4] == [50, 100, 200, 400]

"""What stands in a driver's passage sees all that comes and goes, and may change it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from integration.tools.amqp import channel_to, delete, publish
from integration.tools.fuzz import encode

from service_runtime.amqp.confirms import Batch, Outgoing
from service_runtime.amqp.endpoint import Endpoint
from service_runtime.amqp.settlements import Settlements
from service_runtime.passage import Enqueue, Passage, SendOn, Take
from service_runtime.rabbit_driver import RabbitDriver
from teardown_lab.own_broker.private_node import PrivateNode
from vm_protocol import limits, messages, topology
from vm_protocol.actor import Actor
from vm_protocol.codec import Packet
from vm_protocol.effects import Ack, Consume, Effect, Input, Publish, Received, SetTimer, Started

pytestmark = pytest.mark.rabbitmq

COMMANDS = topology.client_replies("echo")
ANSWERS = topology.client_replies("answers")


@dataclass(frozen=True)
class EchoCore:
    """Sends on what it gets; its state counts what has come, the timer included."""

    actor: str = "echo"

    def initial(self) -> int:
        return 0

    def step(self, state: int, event: Input) -> tuple[int, tuple[Effect, ...]]:
        if isinstance(event, Started):
            return state, (Consume(COMMANDS, 1), SetTimer("tick", 1))
        if not isinstance(event, Received):
            return state + 1, ()
        sent = Publish(topology.REPLIES.name, ANSWERS.name, event.message)
        return state + 1, (sent, Ack(event.queue, event.message_id))


@dataclass
class Onlooker(Passage):
    """Lets everything pass, and keeps what it saw."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    def arrived(self, queue: str, packet: Packet, take: Take, enqueue: Enqueue) -> None:
        self.seen.append(("arrived", queue))
        super().arrived(queue, packet, take, enqueue)

    def fired(self, timer: str, take: Take, enqueue: Enqueue) -> None:
        self.seen.append(("fired", timer))
        super().fired(timer, take, enqueue)

    def leaving(self, outgoing: Outgoing, batch: Batch, forward: SendOn) -> None:
        self.seen.append(("leaving", outgoing.exchange))
        super().leaving(outgoing, batch, forward)

    def settling(self, settlements: Settlements) -> Callable[[], None]:
        def settle() -> None:
            self.seen.extend(("settled", settle.queue) for _, settle in settlements.settled)
            settlements.perform()

        return settle


class Spoiler(Passage):
    """Drops all records, and sends every message twice."""

    def leaving(self, outgoing: Outgoing, batch: Batch, forward: SendOn) -> None:
        if outgoing.exchange == topology.RECORDS.name:
            batch.confirmed()
            return
        batch.open_count += 1
        forward(outgoing, batch)
        forward(outgoing, batch)


def run(node: PrivateNode, passage: Passage) -> tuple[int, int]:
    """Send a message to an echo behind a passage; return what is left of commands and answers."""

    async def drive() -> None:
        actor = Actor(EchoCore())
        endpoint = Endpoint(node.url)
        driver = RabbitDriver(actor, endpoint, lambda _: None, lambda: actor.state == 2, passage)
        async with asyncio.timeout(60):
            await driver.run()

    with channel_to(node.url) as channel:
        channel.confirm_delivery()
        replies = topology.REPLIES
        channel.exchange_declare(replies.name, replies.type, durable=True)
        for queue in (COMMANDS, ANSWERS):
            channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
        channel.queue_bind(ANSWERS.name, replies.name, ANSWERS.name)
        packet = encode(messages.RemoveVm(vm="x"), None, limits.MANAGER_EPOCH)
        publish(channel, "", COMMANDS.name, packet)
        asyncio.run(drive())
        left = [
            int(channel.queue_declare(queue.name, passive=True).method.message_count)
            for queue in (COMMANDS, ANSWERS)
        ]
    delete(node.url, [COMMANDS.name, ANSWERS.name])
    return left[0], left[1]


def test_a_passage_sees_every_delivery_timer_publish_and_settlement(
    lone_node: PrivateNode,
) -> None:
    onlooker = Onlooker()

    left = run(lone_node, onlooker)

    records = ("leaving", topology.RECORDS.name)
    assert left == (0, 1)
    assert sorted(each for each in onlooker.seen if each != records) == [
        ("arrived", COMMANDS.name),
        ("fired", "tick"),
        ("leaving", topology.REPLIES.name),
        ("settled", COMMANDS.name),
    ]
    # Received, sent and acknowledged: all of one handler, so one journal message.
    assert onlooker.seen.count(records) == 1


def test_what_a_passage_drops_or_repeats_holds_up_no_settlement(lone_node: PrivateNode) -> None:
    assert run(lone_node, Spoiler()) == (0, 2)

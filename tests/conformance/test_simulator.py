"""What only the simulated broker has: virtual time, versions by name, and what it refuses."""

from dataclasses import dataclass
from typing import Any

import pytest

from teardown_lab.simulator.broker import SimulatedBroker
from teardown_lab.simulator.errors import NotSimulated
from teardown_lab.simulator.versions import (
    RABBITMQ_3_10,
    RABBITMQ_4_0,
    RABBITMQ_4_3,
    VERSIONS,
    BrokerVersion,
    version_of,
)
from teardown_lab.simulator.world import EPOCH_NS, World
from vm_protocol import effects, limits, topology
from vm_protocol.actor import Actor
from vm_protocol.codec import Packet
from vm_protocol.messages import ClockUpdate, VmRemoved
from vm_protocol.topology import ArgumentValue, Exchange, Mailbox, Queue

MS = 1_000_000
MAILBOX = Mailbox("vm-0", 0)
PACKET = Packet(b"", {}, {})


def broker(*queues: Queue) -> SimulatedBroker:
    exchanges = (Exchange("in", "direct"), Exchange("dead", "fanout"))
    return SimulatedBroker(exchanges=exchanges, queues=queues)


def queue(name: str, **arguments: ArgumentValue) -> Queue:
    given = tuple((f"x-{key.replace('_', '-')}", value) for key, value in arguments.items())
    return Queue(name, given, (("in", name),))


@pytest.mark.parametrize(
    ("product", "version"),
    [
        ("RabbitMQ 3.10.8", RABBITMQ_3_10),
        ("3.13.7", RABBITMQ_3_10),
        ("4.0.5", RABBITMQ_4_0),
        ("4.2.1", RABBITMQ_4_0),
        ("RabbitMQ 4.3.6", RABBITMQ_4_3),
        ("5.0", RABBITMQ_4_3),
    ],
)
def test_a_version_is_found_by_its_number(product: str, version: BrokerVersion) -> None:
    assert version_of(product) is version


@pytest.mark.parametrize("product", ["", "4", "three.ten", "3.9.1"])
def test_what_is_no_known_version_is_refused(product: str) -> None:
    with pytest.raises(ValueError, match=r"RabbitMQ"):
        version_of(product)


@pytest.mark.parametrize(
    "refused",
    [
        queue("classic", single_active_consumer=True),
        queue("classic", overflow="reject-publish"),
        queue("quorum", queue_type="quorum", max_priority=3),
        queue("quorum", queue_type="quorum", delivery_limit=-1),
        queue("stream", queue_type="stream", dead_letter_exchange="dead"),
        queue("unknown", queue_type="jms"),
    ],
)
def test_an_argument_without_a_rule_is_refused(refused: Queue) -> None:
    with pytest.raises(NotSimulated, match=refused.name):
        broker(refused)


@pytest.mark.parametrize(
    "refused", [Packet(b"", {"expiration": "100"}, {}), Packet(b"", {}, {"CC": ["other"]})]
)
def test_what_a_publisher_asks_for_without_a_rule_is_refused(refused: Packet) -> None:
    with pytest.raises(NotSimulated):
        broker().publish("in", "key", refused)


def test_everything_that_the_project_declares_has_rules() -> None:
    everything = SimulatedBroker()
    for each in (
        topology.MANAGER_REPLIES_QUEUE,
        topology.worker_commands("worker-1"),
        topology.worker_replies("worker-1"),
        topology.client_replies("client"),
        MAILBOX.queue(),
    ):
        everything.declare(each)

    assert set(everything.queue_names()) >= {"manager.commands", MAILBOX.name}


def test_time_passes_from_one_expiry_to_the_next() -> None:
    grave = Queue("grave", (), (("dead", ""),))
    slow = queue("slow", message_ttl=300, dead_letter_exchange="dead")
    fast = queue("fast", message_ttl=100, dead_letter_exchange="dead")
    core = broker(grave, slow, fast)
    core.publish("in", "slow", PACKET)
    core.publish("in", "fast", PACKET)

    assert core.next_due_ns() == 100 * MS
    core.advance_to(250 * MS)
    assert core.ready_count("grave") == 1
    assert core.next_due_ns() == 300 * MS
    core.advance_to(300 * MS)
    assert core.ready_count("grave") == 2
    assert core.next_due_ns() is None


def test_a_message_that_was_taken_in_time_is_nothing_to_wait_for() -> None:
    core = broker(queue("queue", message_ttl=100))
    core.publish("in", "queue", PACKET)
    core.consume("worker", "queue", prefetch=1)

    assert core.next_due_ns() is None


@dataclass(frozen=True)
class Seen:
    reasons: tuple[str, ...] = ()


class Watcher:
    """Posts a request to a mailbox that nobody consumes, and watches the dead letters."""

    actor = "watcher"

    def initial(self) -> Seen:
        return Seen()

    def step(self, state: Seen, event: effects.Input) -> tuple[Seen, tuple[effects.Effect, ...]]:
        if isinstance(event, effects.DeadLettered):
            seen = Seen((*state.reasons, event.reason))
            return seen, (effects.Ack(topology.DEAD_LETTERS_QUEUE.name, event.letter),)
        request = ClockUpdate(vm="vm-0", incarnation=1, generation=1, recipients=(0,))
        return state, (
            effects.Consume(topology.DEAD_LETTERS_QUEUE, 10),
            effects.DeclareMailbox(MAILBOX),
            effects.Bind(MAILBOX),
            effects.Publish(topology.REQUESTS.name, "vm-0", request),
        )


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_world_lets_a_request_expire_in_its_own_time(version: BrokerVersion) -> None:
    world = World(version=version)
    watcher: Actor[Seen] = Actor(Watcher())
    world.add(watcher)

    assert world.run(lambda: bool(watcher.state.reasons))

    assert watcher.state.reasons == ("expired",)
    assert world.now_ns - EPOCH_NS >= limits.MAILBOX_TTL_MS * MS


OWN = topology.client_replies("talker")


def tell(vm: str, key: str = OWN.name) -> effects.Publish:
    removed = VmRemoved(vm=vm, incarnation=1)
    return effects.Publish(topology.REPLIES.name, key, removed, mandatory=True)


@dataclass(frozen=True)
class Talker:
    """Asks for what comes to nothing, then tells itself so; tells itself again when it learns."""

    opening: effects.Effect
    actor: str = "talker"

    def initial(self) -> tuple[str, ...]:
        return ()

    def step(
        self, state: tuple[str, ...], event: effects.Input
    ) -> tuple[tuple[str, ...], tuple[effects.Effect, ...]]:
        match event:
            case effects.Started():
                return state, (effects.Consume(OWN, 10), self.opening, tell("asked"))
            case effects.Received():
                return (*state, event.message.vm), (effects.Ack(event.queue, event.message_id),)
            case _:
                return state, (tell("learned"),)


@pytest.mark.parametrize("opening", [tell("lost", "nobody"), effects.ConsumeMailbox(MAILBOX)])
def test_what_an_action_brings_waits_until_the_plan_is_performed(opening: effects.Effect) -> None:
    world = World()
    talker: Actor[tuple[str, ...]] = Actor(Talker(opening))
    world.add(talker)

    assert world.run(lambda: len(talker.state) == 2)

    assert talker.state == ("asked", "learned")


def test_an_action_that_no_driver_knows_ends_the_run() -> None:
    unknown: Any = object()

    with pytest.raises(AssertionError, match="unreachable"):
        World().add(Actor(Talker(unknown)))

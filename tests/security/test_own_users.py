"""Workers with a user each: what one may not do to another; and bounds on what anybody declares."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pika.exceptions
import pytest
from integration.tools.amqp import channel_to
from pika.adapters.blocking_connection import BlockingChannel
from security.guarded import CLIENT, MANAGER, Guarded, guarded_node, make_definitions, refusal
from support.needs import need_server

from service_runtime.settings import read_settings
from vm_protocol import messages, topology
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.topology import Mailbox

pytestmark = pytest.mark.rabbitmq

ANNE, BOB = "worker-anne", "worker-bob"
BOUND = 1_000_000
QUEUES, CONNECTIONS = 30, 3
Act = Callable[[BlockingChannel], Any]


def lower(definitions: dict[str, Any]) -> None:
    """Lower the bounds, so that a test reaches them; what they are on stays as it is shipped."""
    for parameter in definitions["parameters"]:
        if parameter["component"] == "operator_policy":
            parameter["value"]["definition"]["max-length-bytes"] = BOUND
        else:
            parameter["value"]["max-queues"] = QUEUES
    for user in definitions["users"]:
        if user["name"] == CLIENT:
            user["limits"]["max-connections"] = CONNECTIONS


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A broker whose workers anne and bob have users of their own, with their queues declared."""
    need_server()
    folder = tmp_path_factory.mktemp("owned")
    with guarded_node(folder, ("anne", "bob"), lower) as broker:
        for user in (ANNE, BOB):
            with broker.channel(user) as channel:
                own(channel, user.removeprefix("worker-"))
        yield broker


def own(channel: BlockingChannel, worker: str) -> None:
    """Declare and bind a worker's queues as the service does."""
    for queue in (topology.worker_commands(worker), topology.worker_replies(worker)):
        channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
        for exchange, key in queue.bindings:
            channel.queue_bind(queue.name, exchange, key)


def bind(exchange: str, key: str) -> Act:
    return lambda channel: channel.queue_bind("worker.anne.replies", exchange, key)


def publish(exchange: str, key: str) -> Act:
    return lambda channel: channel.basic_publish(exchange, key, b"x")


AGAINST_BOB: dict[str, Act] = {
    "deletes his commands": lambda channel: channel.queue_delete("worker.bob.commands"),
    "empties his commands": lambda channel: channel.queue_purge("worker.bob.commands"),
    "takes his commands": lambda channel: channel.basic_get("worker.bob.commands"),
    "takes his replies": lambda channel: channel.basic_get("worker.bob.replies"),
    "hears his commands": bind("commands", "worker.bob.commands"),
    "hears his replies": bind("replies", "worker.bob.replies"),
    "hears his completions": bind("async-pf", "worker.bob.commands"),
    "completes his faults": publish("async-pf", "worker.bob.commands"),
    "makes a queue of a free name": lambda channel: channel.queue_declare("worker.x.replies"),
    "has his queue bound elsewhere": lambda channel: channel.queue_bind(
        "worker.bob.replies", "replies", "worker.anne.replies"
    ),
}


@pytest.mark.parametrize("what", AGAINST_BOB)
def test_a_worker_does_nothing_to_another(owned: Guarded, what: str) -> None:
    code, text = refusal(owned, ANNE, AGAINST_BOB[what])

    assert code == 403
    assert f"refused for user '{ANNE}'" in text


def test_its_own_queues_a_worker_may_make_again_and_remove(owned: Guarded) -> None:
    def again(channel: BlockingChannel) -> None:
        own(channel, "anne")
        channel.queue_delete("worker.anne.commands")
        own(channel, "anne")

    assert refusal(owned, ANNE, again) == (0, "done")


def test_a_stream_of_ten_terabytes_keeps_what_the_deployment_allows(owned: Guarded) -> None:
    huge = {"x-queue-type": "stream", "x-max-length-bytes": 10 * 2**40}
    body, count = b"x" * 5_000, 1_000
    with owned.channel(BOB) as channel:
        channel.queue_delete("worker.bob.replies")
        segments = {**huge, "x-stream-max-segment-size-bytes": BOUND}
        channel.queue_declare("worker.bob.replies", durable=True, arguments=segments)
        channel.queue_bind("worker.bob.replies", "replies", "worker.bob.replies")
    with owned.channel(MANAGER) as channel:
        for _ in range(count):
            channel.basic_publish("replies", "worker.bob.replies", body)

    first = first_offset(owned, "worker.bob.replies")
    with owned.channel(BOB) as channel:
        channel.queue_delete("worker.bob.replies")
        own(channel, "bob")

    assert first * len(body) >= count * len(body) - 4 * BOUND


def first_offset(owned: Guarded, stream: str) -> int:
    """Return the offset of the first message that a stream still has."""
    first = None
    # What pika has not handed out it rejects, and a stream's broker closes the connection over it.
    with suppress(pika.exceptions.AMQPError), owned.channel(BOB) as channel:
        channel.basic_qos(prefetch_count=10)
        begin = {"x-stream-offset": "first"}
        found = channel.consume(stream, arguments=begin, inactivity_timeout=20)
        _, properties, _ = next(found)
        first = (properties.headers or {})["x-stream-offset"]
    assert first is not None
    return int(first)


def test_a_classic_queue_keeps_no_more_than_the_deployment_allows(owned: Guarded) -> None:
    body, count = b"x" * 100_000, 40
    with owned.channel(MANAGER) as channel:
        for _ in range(count):
            channel.basic_publish("replies", "worker.anne.replies", body)
    with owned.channel(ANNE) as channel:
        kept = channel.queue_declare("worker.anne.replies", passive=True).method.message_count
        channel.queue_purge("worker.anne.replies")

    assert kept == BOUND // len(body)


def test_commands_that_nobody_takes_are_refused_beyond_a_bound_and_none_is_dropped(
    owned: Guarded,
) -> None:
    """The operator's bound, lower here, with the overflow of the shipped policy."""
    taken = 0
    with owned.channel(CLIENT) as channel:
        for _ in range(40):
            try:
                channel.basic_publish("commands", "manager.commands", b"x" * 100_000)
            except pika.exceptions.NackError:
                continue
            taken += 1

    assert BOUND // 100_000 <= taken < 40
    with owned.channel(MANAGER) as channel:
        kept = 0
        for method, _, _ in channel.consume("manager.commands", inactivity_timeout=5):
            if method is None:
                break
            channel.basic_ack(method.delivery_tag)
            kept += 1
        channel.cancel()
    assert kept == taken


def test_more_queues_than_the_deployment_allows_are_refused(owned: Guarded) -> None:
    names = [f"client.flood-{number}.replies" for number in range(QUEUES + 1)]

    def flood(channel: BlockingChannel) -> None:
        for name in names:
            channel.queue_declare(name, durable=True)

    code, text = refusal(owned, CLIENT, flood)
    with owned.channel(CLIENT) as channel:
        for name in names:
            channel.queue_delete(name)

    assert code in (403, 406)
    assert "limit" in text


def test_more_connections_than_a_user_may_have_are_refused(owned: Guarded) -> None:
    url = owned.url(CLIENT)
    with channel_to(url), channel_to(url), channel_to(url):
        with pytest.raises(pika.exceptions.AMQPConnectionError), channel_to(url):
            pass
        with owned.channel(MANAGER) as others:
            assert others.is_open


# --- what the services check themselves -------------------------------------------------------

PLACED = messages.VcpuPlaced(vm="vm-1", vcpu=0, worker="bob")
DONE = messages.VcpuStepsDone(vm="vm-1", vcpu=0, step="3.0", outcome="done")
TRUST = read_settings({"WORKER_USERS": "worker-anne=anne, worker-bob=bob, pool"}).trust()


@pytest.mark.parametrize(
    ("message", "user", "sender", "passes"),
    [
        (DONE, "worker-bob", "worker.bob", True),
        (DONE, "worker-anne", "worker.bob", False),
        (DONE, "worker-anne", "manager.1", False),
        (PLACED, "worker-bob", "worker.bob", True),
        (PLACED, "worker-anne", "worker.anne", False),
        (PLACED, "pool", "worker.bob", True),
        (PLACED, "stranger", "worker.bob", False),
    ],
)
def test_the_user_of_one_worker_speaks_for_no_other(
    message: messages.Message, user: str, sender: str, passes: bool
) -> None:
    wrong = None
    try:
        TRUST.check(message, user, sender)
    except RemoteProtocolError as error:
        wrong = error.reason

    assert wrong == (None if passes else RejectReason.FORGED)


def test_the_bounds_that_are_shipped_leave_room_for_the_largest_vm() -> None:
    largest = Mailbox("vm", 0).queue()
    lengths = dict(largest.arguments)

    assert int(lengths["x-max-length"]) * 8_192 < make_definitions.QUEUE_BYTES_MAX

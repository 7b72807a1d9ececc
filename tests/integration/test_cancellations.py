"""A consumer that the broker cancels for its slowness is told from one whose queue was deleted.

Up to 4.2 the broker closes the channel over a consumer timeout, since 4.3 a quorum queue sends the
same `basic.cancel` as for a deletion.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from integration.tools.amqp import delete
from support.needs import need_engine, need_server

from service_runtime.amqp.cancellations import Cancellations
from service_runtime.amqp.confirms import Outgoing
from service_runtime.amqp.endpoint import Endpoint
from service_runtime.amqp.known_problems import known_problems
from service_runtime.amqp.lost_session import SessionLost
from service_runtime.amqp.session import AmqpSession
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.container import rabbitmq_container
from teardown_lab.own_broker.private_node import PrivateNode
from vm_protocol.codec import Packet
from vm_protocol.topology import COMMANDS, Mailbox, Queue

pytestmark = pytest.mark.slow

TIMEOUT_MS = 1_000
PATIENCE_S = 120.0


class Heard:
    """What a session told; `happened` when a consumer was cancelled."""

    def __init__(self) -> None:
        self.queues: list[str] = []
        self.happened = asyncio.Event()

    def delivered(self, queue: str, tag: int, packet: Packet, redelivered: bool) -> None: ...

    def confirmed(self, tag: int, multiple: bool, ok: bool, *, stream: str) -> None: ...

    def returned(self, packet: Packet) -> None: ...

    def blocked(self, is_blocked: bool) -> None: ...

    def cancelled(self, queue: str) -> None:
        self.queues.append(queue)
        self.happened.set()


class Said:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event, **fields})


@pytest.fixture(scope="module")
def hasty_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNode]:
    """A node whose consumers have a second, which it looks at twice in that time."""
    need_server()
    file = tmp_path_factory.mktemp("hasty") / "advanced.config"
    settings = f"{{consumer_timeout, {TIMEOUT_MS}}}, {{channel_tick_interval, {TIMEOUT_MS // 2}}}"
    file.write_text(f"[{{rabbit, [{settings}]}}].\n", encoding="ascii")
    with PrivateNode(environment={"RABBITMQ_ADVANCED_CONFIG_FILE": str(file)}) as node:
        yield node


def cancel(url: str, queue: Queue, *, by_deletion: bool) -> tuple[Cancellations, Said, Any]:
    """Have a consumer cancelled; return what was counted, what was said, and mailboxes gone."""
    return asyncio.run(_cancel(url, queue, by_deletion=by_deletion))


async def _cancel(url: str, queue: Queue, *, by_deletion: bool) -> tuple[Cancellations, Said, Any]:
    heard, said, gone = Heard(), Said(), None
    found = Cancellations(said)
    session = AmqpSession(Endpoint(url), "test", heard)
    try:
        await session.open()
        await session.declare(queue)
        await session.consume(queue.name, 1)
        if by_deletion:
            await asyncio.to_thread(delete, url, [queue.name])
        else:
            packet = Packet(b"{}", {}, {})
            session.publish(Outgoing(COMMANDS.name, queue.name, packet, mandatory=False))
        waits = [asyncio.ensure_future(heard.happened.wait()), session.lost]
        await asyncio.wait(waits, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        waits[0].cancel()
        if session.lost.done():
            found.note(SessionLost(str(session.lost.result())))
        for name in heard.queues:
            found.add(name)
            gone = await found.look(session)
    finally:
        await session.close()
        await asyncio.to_thread(delete, url, [queue.name])
    return found, said, gone


def commands(name: str, *more: tuple[str, Any]) -> Queue:
    arguments = (("x-queue-type", "quorum"), ("x-delivery-limit", 20), *more)
    return Queue(name, arguments, ((COMMANDS.name, name),))


@pytest.mark.rabbitmq
def test_a_consumer_timeout_before_4_3_is_told_by_the_channel_that_it_closes(
    hasty_node: PrivateNode,
) -> None:
    found, said, _ = cancel(hasty_node.url, commands("slow.commands"), by_deletion=False)

    assert found.count == 1
    assert [line["queue_exists"] for line in said.lines] == [True]
    assert "consumer timeout" in said.lines[0]["why"]


@pytest.mark.rabbitmq
def test_a_deleted_queue_is_said_to_be_deleted(hasty_node: PrivateNode) -> None:
    found, said, gone = cancel(hasty_node.url, commands("gone.commands"), by_deletion=True)

    assert (found.count, gone) == (0, [])
    assert [(line["queue"], line["queue_exists"]) for line in said.lines] == [
        ("gone.commands", False)
    ]


@pytest.mark.rabbitmq
def test_a_deleted_mailbox_is_gone_and_no_warning(hasty_node: PrivateNode) -> None:
    mailbox = Mailbox("vm-cancelled", 0)

    found, said, gone = cancel(hasty_node.url, commands(mailbox.name), by_deletion=True)

    assert (found.count, said.lines, gone) == (0, [], [mailbox])


@pytest.mark.container
@pytest.mark.parametrize("name", ["slow.commands", Mailbox("vm-slow", 0).name])
def test_a_consumer_timeout_since_4_3_is_told_from_a_deletion(name: str) -> None:
    """Of `manager.commands` and of a mailbox, which in a cluster is a quorum queue as well."""
    need_engine()
    queue = commands(name, ("x-consumer-timeout", TIMEOUT_MS))
    with RunFolder() as run, rabbitmq_container(run) as url:
        found, said, gone = cancel(url, queue, by_deletion=False)

    assert (found.count, gone or []) == (1, [])
    assert [line["queue_exists"] for line in said.lines] == [True]


@pytest.mark.parametrize(
    ("broker", "is_told"),
    [
        ("RabbitMQ 3.10.8", False),
        ("RabbitMQ 3.12.14", False),
        ("RabbitMQ 3.13.0", True),
        ("RabbitMQ 3.13.2", True),
        ("RabbitMQ 3.13.3", False),
        ("RabbitMQ 4.3.6", False),
        ("RabbitMQ 3.13.1+12.gabc", True),
        ("unknown unknown", False),
    ],
)
def test_a_broker_that_loses_dead_letters_is_known(broker: str, is_told: bool) -> None:
    assert bool(known_problems(broker)) == is_told

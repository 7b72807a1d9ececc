"""What a role's user may not do, the broker refuses by name; what it must do, it may."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest
from integration.tools.fuzz import encode
from integration.tools.log import Log
from pika.adapters.blocking_connection import BlockingChannel
from security.guarded import CLIENT, MANAGER, MONITOR, OPERATOR, WORKER, Guarded, refusal
from support.runs import tear_down

from teardown_lab.broker.address import knock
from teardown_lab.broker.errors import BrokerUnavailable
from teardown_lab.experiment.lab import Lab
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol import limits, messages, topology
from vm_protocol.topology import Mailbox

MAILBOX = Mailbox("vm-1", 0).name
COMMAND = messages.DestroyVcpu(
    vm="vm-1", vcpu=0, step="3.0", steps=("free_vcpu",), generation=1, fence=True
)
Act = Callable[[BlockingChannel], Any]


VICTIM, PEER = "client.victim.replies", "worker.peer.replies"
MANAGED, ELECT, BUSY = "manager.replies", "manager.commands", "worker.peer.commands"
MINE, OURS = "worker.spy.replies", "client.spy.replies"


def publish(exchange: str, user_id: str | None = None, key: str = "any") -> Act:
    """Return the publishing of a destroy command to an exchange."""
    packet = encode(COMMAND, "manager.replies", limits.MANAGER_EPOCH)
    given = {**packet.properties, "user_id": user_id}
    properties = pika.BasicProperties(headers=dict(packet.headers), **given)
    return lambda channel: channel.basic_publish(exchange, key, packet.body, properties)


def consume(queue: str) -> Act:
    def act(channel: BlockingChannel) -> None:
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue, lambda *_: None)

    return act


def bind(queue: str, exchange: str, key: str = "any") -> Act:
    def act(channel: BlockingChannel) -> None:
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, exchange, key)

    return act


def delete(queue: str) -> Act:
    return lambda channel: channel.queue_delete(queue)


def declare(queue: str) -> Act:
    return lambda channel: channel.queue_declare(queue, durable=True)


REFUSED: list[tuple[str, str, Act, str]] = [
    (WORKER, "sends a destroy command", publish("commands"), "write exchange 'commands'"),
    (WORKER, "posts a request", publish("vm.requests"), "write exchange 'vm.requests'"),
    (WORKER, "places a vCPU", publish("placement"), "write exchange 'placement'"),
    (WORKER, "hears requests", bind("worker.w.replies", "vm.requests"), "read exchange"),
    (WORKER, "takes a manager's work", consume("manager.commands"), "read queue"),
    (WORKER, "reads the journal", consume("teardown.journal"), "read queue 'teardown.journal'"),
    (WORKER, "takes dead letters", consume("teardown.dead-letters"), "read queue"),
    (WORKER, "deletes a mailbox", delete(MAILBOX), f"configure queue '{MAILBOX}'"),
    (WORKER, "deletes the placements", delete("vcpu.placement"), "configure queue"),
    (CLIENT, "posts a request", publish("vm.requests"), "write exchange 'vm.requests'"),
    (CLIENT, "answers for somebody", publish("replies"), "write exchange 'replies'"),
    (CLIENT, "places a vCPU", publish("placement"), "write exchange 'placement'"),
    (CLIENT, "hears requests", bind("client.c.replies", "vm.requests"), "read exchange"),
    (CLIENT, "hears commands", bind("client.c.replies", "commands"), "read exchange 'commands'"),
    (CLIENT, "reads a mailbox", consume(MAILBOX), f"read queue '{MAILBOX}'"),
    (CLIENT, "empties a mailbox", lambda channel: channel.queue_purge(MAILBOX), "read queue"),
    (CLIENT, "deletes a mailbox", delete(MAILBOX), f"configure queue '{MAILBOX}'"),
    (CLIENT, "takes dead letters", consume("teardown.dead-letters"), "read queue"),
    (CLIENT, "makes a queue of its own", declare("mine"), "configure queue 'mine'"),
    (MONITOR, "posts a request", publish("vm.requests"), "write exchange 'vm.requests'"),
    (MONITOR, "takes commands", consume("manager.commands"), "read queue 'manager.commands'"),
    (MONITOR, "makes a queue", declare("worker.w.commands"), "configure queue"),
    (MANAGER, "takes a worker's commands", consume("worker.w.commands"), "read queue"),
    (MANAGER, "takes dead letters", consume("teardown.dead-letters"), "read queue"),
    (MANAGER, "deletes its commands", delete("manager.commands"), "configure queue"),
    (MANAGER, "completes a fault", publish("async-pf"), "write exchange 'async-pf'"),
    (OPERATOR, "sends a command", publish("commands"), "write exchange 'commands'"),
    (OPERATOR, "reads a mailbox", consume(MAILBOX), f"read queue '{MAILBOX}'"),
    (OPERATOR, "hears requests", bind("mine", "vm.requests"), "configure queue 'mine'"),
]
"""User, what it tries, how, and which access that takes to what."""


@pytest.fixture(scope="module")
def queues(broker: Guarded) -> None:
    """A mailbox and a worker's queue, made by those who may: else a refusal could be a 404."""
    mailbox = Mailbox("vm-1", 0).queue()
    with broker.channel(MANAGER) as channel:
        channel.queue_declare(mailbox.name, durable=True, arguments=dict(mailbox.arguments))
    commands = topology.worker_commands("w")
    with broker.channel(WORKER) as channel:
        channel.queue_declare(commands.name, durable=True, arguments=dict(commands.arguments))


@pytest.mark.usefixtures("queues")
@pytest.mark.parametrize(
    ("user", "act", "access"),
    [pytest.param(user, act, text, id=f"{user} {what}") for user, what, act, text in REFUSED],
)
def test_it_is_refused(broker: Guarded, user: str, act: Act, access: str) -> None:
    kind, _, what = access.partition(" ")

    code, text = refusal(broker, user, act)

    assert code == 403
    # 3.10 does not say which kind of access.
    assert text.startswith((f"ACCESS_REFUSED - {kind} access to {what}", "ACCESS_REFUSED - access"))
    assert f"access to {what}" in text
    assert f"refused for user '{user}'" in text


KEYS: list[tuple[str, str, Act, str, str]] = [
    (WORKER, "answers a client", publish("replies", key=VICTIM), VICTIM, "replies"),
    (WORKER, "answers a worker", publish("replies", key=PEER), PEER, "replies"),
    (WORKER, "hears what a client hears", bind(MINE, "replies", VICTIM), VICTIM, "replies"),
    (WORKER, "hears what a manager hears", bind(MINE, "replies", MANAGED), MANAGED, "replies"),
    (WORKER, "hears all replies", bind(MINE, "replies", "#"), "#", "replies"),
    (WORKER, "hears all commands", bind(MINE, "commands", "worker.*.commands"), "*", "commands"),
    (WORKER, "hears clients' commands", bind(MINE, "commands", ELECT), ELECT, "commands"),
    (WORKER, "completes into replies", publish("async-pf", key=VICTIM), VICTIM, "async-pf"),
    (CLIENT, "commands a worker", publish("commands", key=BUSY), BUSY, "commands"),
    (CLIENT, "hears what a worker hears", bind(OURS, "replies", PEER), PEER, "replies"),
    (CLIENT, "hears what a manager hears", bind(OURS, "replies", MANAGED), MANAGED, "replies"),
    (CLIENT, "hears all replies", bind(OURS, "replies", "#"), "#", "replies"),
    (CLIENT, "hears all clients", bind(OURS, "replies", "client.*.replies"), "*", "replies"),
]
"""User, what it tries, how, and which routing key of which exchange that takes."""


@pytest.mark.parametrize(
    ("user", "act", "key", "exchange"),
    [pytest.param(user, act, *where, id=f"{user} {what}") for user, what, act, *where in KEYS],
)
def test_a_key_that_is_another_s_is_refused(
    broker: Guarded, user: str, act: Act, key: str, exchange: str
) -> None:
    code, text = refusal(broker, user, act)

    assert code == 403
    assert "access to topic '" in text
    assert key in text
    assert f"in exchange '{exchange}'" in text


@pytest.mark.parametrize("exchange", [exchange.name for exchange in topology.EXCHANGES])
@pytest.mark.parametrize("user", [MANAGER, MONITOR, WORKER, CLIENT])
def test_nobody_changes_an_exchange(broker: Guarded, user: str, exchange: str) -> None:
    code, text = refusal(broker, user, lambda channel: channel.exchange_delete(exchange))

    assert (code, f"access to exchange '{exchange}'" in text) == (403, True)


@pytest.mark.parametrize("user", [WORKER, CLIENT, MONITOR])
def test_nobody_says_to_be_another(broker: Guarded, user: str) -> None:
    code, text = refusal(broker, user, publish("records", user_id=MANAGER))

    assert code == 406
    assert f"authenticated user was '{user}'" in text


def test_a_stranger_does_not_get_in(broker: Guarded) -> None:
    with pytest.raises(BrokerUnavailable, match="refuses the login"):
        knock(f"amqp://stranger:stranger@127.0.0.1:{broker.port}/%2F")


@pytest.mark.parametrize("name", catalogue_names())
def test_the_catalogue_is_as_expected_with_narrow_users(lab: Lab, workdir: Path, name: str) -> None:
    entry = catalogue_entry(name)
    expected = entry.expected(entry.show)

    judgement, _ = tear_down(lab, name, workdir, entry.show)

    assert expected is not None
    assert str(judgement.verdict) in expected.run
    assert judgement.notes == ()


@pytest.mark.usefixtures("lab")
def test_after_all_that_no_password_is_in_a_log(broker: Guarded, log: Log) -> None:
    text = "\n".join(map(str, log.lines))
    passwords = [broker.password(user) for user in broker.passwords]

    assert "service.ready" in text
    assert [password for password in passwords if password in text] == []

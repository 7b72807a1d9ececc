"""Who may publish somewhere may still not say everything there: what is forged is dead-lettered."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from integration.tools.amqp import publish
from integration.tools.fuzz import encode
from integration.tools.log import Log
from security.guarded import CLIENT, MANAGER, MONITOR, WORKER, WORKERS, Guarded

from vm_protocol import codec, limits, messages, topology
from vm_protocol.codec import Packet
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.recorder import NO_CAUSE, Recorder
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox

VM = "vm-forged"
VCPUS = 2
COMMANDS_OF_WORKER = topology.worker_commands(WORKERS[0]).name
REPLIES_OF_WORKER = topology.worker_replies(WORKERS[0]).name
REPLIES_OF_MANAGER = topology.MANAGER_REPLIES_QUEUE.name
COMMANDS_OF_MANAGER = topology.MANAGER_COMMANDS_QUEUE.name
PLACE = {"vm": VM, "vcpu": 0, "step": "3.0"}
COMMAND = messages.DestroyVcpu.model_validate(
    {**PLACE, "steps": ("free_vcpu",), "generation": 1, "fence": True}
)
REMOVE = messages.RemoveVm(vm=VM)
FLUSH = messages.TlbFlush(vm=VM, generation=1, recipients=tuple(range(VCPUS)))
UNLOADED = messages.UnloadDone.model_validate({**PLACE, "position": 0, "generation": 9})
COMPLETED = messages.AsyncPfCompleted(vm=VM, vcpu=0, fault=0)
STUCK = messages.CommandStuck.model_validate(PLACE)


def packet_of(message: Message, user: str | None, epoch: int = limits.MANAGER_EPOCH) -> Packet:
    """Return a message as `user` sends it; None names nobody, which the broker lets pass."""
    packet = encode(message, REPLIES_OF_MANAGER, epoch)
    return replace(packet, properties={**packet.properties, "user_id": user})


def send(broker: Guarded, user: str, exchange: str, key: str, packet: Packet) -> None:
    with broker.channel(user) as channel:
        publish(channel, exchange, key, packet)


def letters(log: Log, queue: str, why: str) -> int:
    """Return how many dead letters of a queue the monitor has told to have died of this."""
    return log.count(event="dead_letter.classified", queue=queue, why=why)


Attempt = tuple[str, str | None, str, str, Message]

FORGED: dict[str, Attempt] = {
    "a manager's completion": (MANAGER, MANAGER, "commands", COMMANDS_OF_WORKER, COMPLETED),
    "nobody's command": (MANAGER, None, "commands", COMMANDS_OF_WORKER, COMMAND),
    "a worker's command": (WORKER, WORKER, "async-pf", COMMANDS_OF_WORKER, COMMAND),
    "a monitor's answer": (MONITOR, MONITOR, "replies", REPLIES_OF_WORKER, UNLOADED),
    "a worker as the monitor": (WORKER, WORKER, "replies", REPLIES_OF_MANAGER, STUCK),
    "nobody's removal": (CLIENT, None, "commands", COMMANDS_OF_MANAGER, REMOVE),
    "a manager as a client": (MANAGER, MANAGER, "commands", COMMANDS_OF_MANAGER, REMOVE),
}
"""The user whose connection it is, the user it names, where it sends what."""


@pytest.fixture
def elected(broker: Guarded, log: Log) -> None:
    """A manager that consumes its replies, which it does from its first command on."""
    known = log.count(event="vm.created", vm="vm-elector")
    if not known:
        create(broker, log, "vm-elector")


def create(broker: Guarded, log: Log, vm: str) -> None:
    """Have a VM created, as a client does."""
    message = messages.CreateVm(vm=vm, scenario=Scenario(vcpus=VCPUS, ticker=False))
    replies = topology.client_replies("none")
    with broker.channel(CLIENT) as channel:
        channel.queue_declare(replies.name, durable=True, arguments=dict(replies.arguments))
        channel.queue_bind(replies.name, *replies.bindings[0])
    packet = encode(message, replies.name, 0)
    packet = replace(packet, properties={**packet.properties, "user_id": CLIENT})
    send(broker, CLIENT, "commands", COMMANDS_OF_MANAGER, packet)
    log.wait(event="vm.created", vm=vm)


@pytest.mark.usefixtures("elected")
@pytest.mark.parametrize("attempt", FORGED.values(), ids=FORGED)
def test_a_message_of_the_wrong_user_is_dead_lettered_as_forged(
    broker: Guarded, log: Log, attempt: Attempt
) -> None:
    user, named, exchange, key, message = attempt
    before = letters(log, key, RejectReason.FORGED)

    send(broker, user, exchange, key, packet_of(message, named))

    log.wait(before + 1, event="dead_letter.classified", queue=key, why="forged", reason="rejected")
    found = [line for line in log.lines if line.get("why") == "forged" and "invariant" in line]
    assert {line["invariant"] for line in found} <= {None}


@pytest.fixture
def live_vm(broker: Guarded, log: Log) -> Iterator[str]:
    """A VM whose mailboxes are bound and consumed."""
    create(broker, log, VM)
    yield VM
    packet = packet_of(REMOVE, CLIENT, 0)
    send(broker, CLIENT, "commands", COMMANDS_OF_MANAGER, packet)
    log.wait(event="vm.removed", vm=VM)


def test_a_request_of_an_old_epoch_is_refused_by_every_vcpu(
    broker: Guarded, log: Log, live_vm: str
) -> None:
    send(broker, MANAGER, "vm.requests", live_vm, packet_of(FLUSH, MANAGER, epoch=0))

    for vcpu in range(VCPUS):
        queue = Mailbox(live_vm, vcpu).name
        log.wait(event="dead_letter.classified", queue=queue, why="stale-epoch")


def test_a_body_beyond_the_bound_is_dead_lettered(broker: Guarded, log: Log) -> None:
    packet = packet_of(REMOVE, CLIENT)
    body = packet.body + b" " * limits.MESSAGE_BYTES_MAX

    send(broker, CLIENT, "commands", COMMANDS_OF_MANAGER, replace(packet, body=body))

    log.wait(event="dead_letter.classified", queue=COMMANDS_OF_MANAGER, why="too-large")


def test_a_forged_dead_letter_sends_no_command_again(broker: Guarded, log: Log) -> None:
    """The monitor may send what a worker may not: it must not be talked into it."""
    packet = packet_of(COMMAND, WORKER)
    death = {
        "reason": "delivery_limit",
        "queue": COMMANDS_OF_WORKER,
        "exchange": "commands",
        "routing-keys": [COMMANDS_OF_WORKER],
        "count": 1,
    }
    forged = replace(packet, headers={**packet.headers, "x-death": [death]})

    send(broker, WORKER, "dead-letters", "", forged)

    log.wait(event="dead_letter.classified", reason="delivery_limit", why="forged")
    assert log.count(event="dead_letter.republished") == 0


def test_nobody_writes_another_s_history(broker: Guarded, log: Log) -> None:
    freed = Recorder("worker.w-1", 0).record(Event.VM_FREED, 0, NO_CAUSE, vm=VM)
    exchange, key = topology.JOURNAL_QUEUE.bindings[0]
    rejected = Recorder("worker.w-1", 0).record(
        Event.MESSAGE_REJECTED, 0, NO_CAUSE, vm=VM, details={"queue": "q", "reason": "freed"}
    )

    body = codec.encode_records((freed, rejected))
    send(broker, CLIENT, exchange, key, Packet(body, {"type": "Records", "user_id": CLIENT}, {}))

    log.wait(event="message.skipped", place="property: user_id: client is not worker.w-1")

"""More VMs than the workers of a real broker have places: each client gets a true answer."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from integration.tools.amqp import channel_to, left_over, publish
from integration.tools.fuzz import encode
from integration.tools.log import Log
from integration.tools.service import service
from pika.adapters.blocking_connection import BlockingChannel

from teardown_lab.checker.findings import Verdict
from teardown_lab.checker.history import History
from teardown_lab.checker.verdict import judge
from teardown_lab.experiment.client import Experiment
from teardown_lab.experiment.on_broker import run_on_broker
from teardown_lab.experiment.standing import ClientState
from teardown_lab.own_broker.private_node import PrivateNode
from vm_manager.catalogue import catalogue_entry
from vm_protocol import limits, messages, topology
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(300), pytest.mark.slow]

ORDERING = catalogue_entry("unload-in-destroy").ordering
TIMEOUT_MS = 200_000


@dataclass(frozen=True)
class Ended:
    """How a client's run ended, and the verdict over its history if it was not refused."""

    vm: str
    state: ClientState
    verdict: Verdict | None


def want(url: str, vm: str, vcpus: int) -> Ended:
    """Run one teardown as a client does, against services that run already."""
    records: list[Record] = []
    experiment = Experiment(vm, ORDERING, Scenario(vcpus=vcpus), "RabbitMQ", "run", TIMEOUT_MS)
    state = run_on_broker(experiment, url, None, records.append)
    refused = state.refusal is not None
    return Ended(vm, state, None if refused else judge(History.of(tuple(records)), vm).verdict)


def want_all(url: str, vcpus: dict[str, int]) -> dict[str, Ended]:
    with ThreadPoolExecutor(len(vcpus)) as clients:
        return {end.vm: end for end in clients.map(lambda each: want(url, *each), vcpus.items())}


@contextmanager
def stack(url: str, *places: int) -> Iterator[Log]:
    """A manager and workers with so many places each."""
    log = Log()
    with ExitStack() as services:
        services.enter_context(service("vm_manager", url, log))
        for number, capacity in enumerate(places):
            own = {"WORKER_ID": f"w-{number}", "WORKER_CAPACITY": str(capacity)}
            services.enter_context(service("vcpu_worker", url, log, **own))
        log.wait(1 + len(places), event="service.ready")
        yield log


def mailboxes(vcpus: dict[str, int]) -> list[str]:
    return [topology.Mailbox(vm, index).name for vm, n in vcpus.items() for index in range(n)]


def test_clients_that_want_more_than_there_is_are_served_in_turn_or_told_why_not(
    fresh_node: PrivateNode,
) -> None:
    wanted = {f"vm-{number}": 2 for number in range(7)} | {"vm-huge": 40}
    with stack(fresh_node.url, 2, 2):
        ended = want_all(fresh_node.url, wanted)

    assert ended["vm-huge"].state.refusal == "no-places"
    assert ended["vm-huge"].state.why.startswith("40 vCPUs want a place each, and ")
    small = [end for vm, end in ended.items() if vm != "vm-huge"]
    assert [(end.state.refusal, end.verdict) for end in small] == [(None, Verdict.SAFE)] * 7
    assert left_over(fresh_node.url, mailboxes(wanted)) == []


def test_a_teardown_gets_through_when_the_manager_has_all_the_creations_that_it_takes(
    fresh_node: PrivateNode,
) -> None:
    url, replies = fresh_node.url, topology.client_replies("flood")
    many = limits.CREATIONS_WAITING_MAX + 20
    with stack(url, 1) as log, channel_to(url) as channel:
        channel.queue_declare(replies.name, durable=True, arguments=dict(replies.arguments))
        for exchange, key in replies.bindings:
            channel.queue_bind(replies.name, exchange, key)

        def send(message: messages.Message) -> None:
            packet = encode(message, replies.name, 0)
            publish(channel, "commands", topology.MANAGER_COMMANDS_QUEUE.name, packet)

        send(messages.CreateVm(vm="first", scenario=Scenario(vcpus=1, ticker=False)))
        log.wait(event="vm.created", vm="first")
        for number in range(many):
            shape = Scenario(vcpus=1, ticker=False)
            send(messages.CreateVm(vm=f"flood-{number}", scenario=shape))
        send(messages.DestroyVm(vm="first", ordering=ORDERING))

        log.wait(event="vm.freed", vm="first")
        log.wait(event="vm.created", vm="flood-0")
        for number in range(many):
            send(messages.RemoveVm(vm=f"flood-{number}"))
        removed = answers(channel, replies.name, lambda kind: kind == "VmRemoved", many)
        channel.queue_delete(replies.name)

    assert removed == many
    assert left_over(url, [topology.Mailbox("flood-0", 0).name]) == []


def answers(channel: BlockingChannel, queue: str, wanted: Callable[[str], bool], count: int) -> int:
    """Read a reply queue until so many of the wanted have come, and return how many."""
    found = 0
    consumed = channel.consume(queue, inactivity_timeout=60)
    for method, properties, _ in consumed:
        if method is None:
            break
        channel.basic_ack(method.delivery_tag)
        found += wanted(properties.type)
        if found == count:
            break
    channel.cancel()
    return found

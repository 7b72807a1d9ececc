"""Destinations as OpenTelemetry names them, and their templates, in which nothing varies."""

import pytest

from service_runtime.tracing.destination_names import consumed_from, dead_letter_of, sent_to
from vm_protocol import topology
from vm_protocol.topology import Mailbox


@pytest.mark.parametrize(
    ("exchange", "key", "template"),
    [
        ("commands", "manager.commands", "commands:manager.commands"),
        ("commands", "worker.w-1.commands", "commands:worker.{worker}.commands"),
        ("replies", "manager.replies", "replies:manager.replies"),
        ("replies", "worker.w-1.replies", "replies:worker.{worker}.replies"),
        ("replies", "client.vm-7.replies", "replies:client.{vm}.replies"),
        ("placement", "vcpu.placement", "placement:vcpu.placement"),
        ("vm.requests", "vm-7", "vm.requests:{vm}"),
    ],
)
def test_a_message_is_sent_to_exchange_and_routing_key(
    exchange: str, key: str, template: str
) -> None:
    destination = sent_to(exchange, key)

    assert destination.name == f"{exchange}:{key}"
    assert destination.routing_key == key
    assert destination.template == template


@pytest.mark.parametrize(
    "queue",
    [
        *topology.SHARED_QUEUES,
        topology.MANAGER_REPLIES_QUEUE,
        topology.worker_commands("w-1"),
        topology.worker_replies("w-1"),
        topology.client_replies("vm-7"),
    ],
    ids=lambda queue: queue.name,
)
def test_a_queue_is_consumed_from_by_way_of_its_binding(queue: topology.Queue) -> None:
    exchange, key = queue.bindings[0]

    wanted = f"{exchange}:{key}" if key == queue.name else f"{exchange}:{key}:{queue.name}"
    assert consumed_from(queue.name).name == wanted


def test_a_completion_comes_into_a_worker_s_queue_by_an_exchange_of_its_own() -> None:
    queue = topology.worker_commands("w-1").name

    destination = consumed_from(queue, "AsyncPfCompleted")

    assert destination.name == f"async-pf:{queue}"


def test_a_mailbox_has_one_template_for_all_vms_and_vcpus() -> None:
    destination = consumed_from(Mailbox("vm-7", 3, 2).name)

    assert destination.name == "vm.requests:vm-7:vcpu.vm-7.3.2"
    assert destination.template == "vm.requests:{vm}:vcpu.{vm}.{vcpu}.{incarnation}"


def test_a_dead_letter_keeps_the_routing_key_with_which_it_came() -> None:
    destination = dead_letter_of(Mailbox("vm-7", 3, 2).name)

    assert destination.name == "dead-letters:vm-7:teardown.dead-letters"
    assert destination.template == "dead-letters:{vm}:teardown.dead-letters"

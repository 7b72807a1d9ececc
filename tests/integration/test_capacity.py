"""Many vCPUs in few workers: what a worker's memory holds, and a VM of the largest usual size."""

import json
from pathlib import Path

import pytest
from integration.tools.amqp import channel_to, publish
from integration.tools.cli import Place, teardown
from integration.tools.fuzz import encode
from integration.tools.log import Log
from integration.tools.service import service

from teardown_lab.own_broker.private_node import PrivateNode
from vm_protocol import messages, topology
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

VMS, VCPUS = 4, 250
MEGABYTES_MAX = 150

LARGE = 256


def megabytes(pid: int) -> float:
    """Return the most memory that a process has had resident."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kilobytes) / 1024


def test_a_worker_with_a_thousand_idle_vcpus_is_small(fresh_node: PrivateNode) -> None:
    log, url = Log(), fresh_node.url
    capacity = {"WORKER_ID": "w-1", "WORKER_CAPACITY": str(VMS * VCPUS)}

    with service("vm_manager", url, log), service("vcpu_worker", url, log, **capacity) as worker:
        log.wait(2, event="service.ready")
        replies = topology.client_replies("idle")
        with channel_to(url) as channel:
            channel.queue_declare(replies.name, durable=True, arguments=dict(replies.arguments))
            channel.queue_bind(replies.name, *replies.bindings[0])
            for number in range(VMS):
                scenario = Scenario(vcpus=VCPUS, ticker=False)
                create = messages.CreateVm(vm=f"vm-{number}", scenario=scenario)
                packet = encode(create, replies.name, 0)
                publish(channel, "commands", topology.MANAGER_COMMANDS_QUEUE.name, packet)
                log.wait(event="vm.created", vm=f"vm-{number}")
        assert megabytes(worker.pid) < MEGABYTES_MAX


@pytest.mark.timeout(300)
def test_two_workers_hold_the_256_vcpus_of_one_vm(fresh_node: PrivateNode, tmp_path: Path) -> None:
    """Before the first free, 256 x 256 requests are behind, and no fence may call that stuck."""
    shape = ("--vcpus", str(LARGE), "--workers", "2")
    run = ("run", "unload-in-destroy", "--json", "--timeout", "240", "--broker", fresh_node.url)

    done = teardown(Place(tmp_path), *run, *shape, seconds=280)

    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"]) == (0, "safe"), done.stderr
    assert found["counts"]["commands"] == LARGE
    assert found["counts"]["unload_flush_requests"] == LARGE * (LARGE + 1) // 2
    assert found["counts"]["unaccounted"] == 0

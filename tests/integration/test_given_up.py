"""Commands that lost connections bring to their delivery limit twice: somebody is told.

The test plays the worker: it takes what it is sent, and loses the connection, again and again.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from integration.tools.amqp import channel_to, left_over, publish
from integration.tools.fuzz import encode
from integration.tools.log import Log
from integration.tools.service import service
from support.manager_bench import loop, ordering

from teardown_lab.checker.findings import Verdict
from teardown_lab.experiment.lab import Lab, LabOptions, RunOptions, RunRefused, open_lab
from vm_protocol import messages, topology
from vm_protocol.codec import Packet
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

WORKER = "lossy"
COMMANDS = topology.worker_commands(WORKER)
PATIENCE_S = 60.0
ORDERING = ordering(loop("free_vcpu", "erase_vcpu"))


@pytest.fixture
def lab(own_node: str) -> Iterator[Lab]:
    """A manager, and no worker."""
    log = Log()
    with service("vm_manager", own_node, log):
        log.wait(event="service.ready")
        with open_lab(LabOptions(broker=own_node, attach=True), print) as lab:
            yield lab


class LosingEnd(threading.Thread):
    """Takes messages of a queue and loses the connection with each, until told to stop."""

    def __init__(self, url: str, queue: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._queue = queue
        self._told = threading.Event()
        self.lost_count = 0

    def run(self) -> None:
        while not self._told.is_set():
            with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
                method, _, _ = connection.channel().basic_get(self._queue)
            if method is None:
                self._told.wait(0.05)
            else:
                self.lost_count += 1

    def stop(self) -> None:
        self._told.set()
        self.join(PATIENCE_S)


def place(url: str) -> None:
    """Take a placement as a worker does, and say so to the manager."""
    with channel_to(url) as channel:
        channel.queue_declare(COMMANDS.name, durable=True, arguments=dict(COMMANDS.arguments))
        for exchange, key in COMMANDS.bindings:
            channel.queue_bind(COMMANDS.name, exchange, key)
        placements = channel.consume(topology.PLACEMENT_QUEUE.name, inactivity_timeout=PATIENCE_S)
        method, properties, body = next(placements)
        assert method is not None, "no vCPU is to be placed"
        asked = messages.PlaceVcpu.model_validate_json(body)
        placed = messages.VcpuPlaced(vm=asked.vm, vcpu=asked.vcpu, worker=WORKER)
        packet: Packet = encode(placed, topology.worker_replies(WORKER).name, 0)
        publish(channel, topology.REPLIES.name, properties.reply_to, packet)
        channel.basic_ack(method.delivery_tag)
        channel.cancel()


def test_a_teardown_whose_command_dies_twice_is_answered_and_inconclusive(
    lab: Lab, tmp_path: Path
) -> None:
    url = lab.provided.url
    assert url is not None
    losing = LosingEnd(url, COMMANDS.name)

    def work() -> None:
        place(url)
        losing.start()

    worker = threading.Thread(target=work)
    worker.start()
    options = RunOptions(timeout_s=PATIENCE_S, history=tmp_path / "history.jsonl")
    judgement = lab.run(ORDERING, Scenario(vcpus=1, ticker=False), 1, options).judgement
    worker.join(PATIENCE_S)
    losing.stop()

    assert judgement.verdict is Verdict.INCONCLUSIVE, judgement.violations
    assert any("given up: lost connections" in note for note in judgement.notes), judgement.notes
    assert losing.lost_count == 42
    assert left_over(url, [topology.Mailbox(judgement.vm, 0).name]) == []


def test_a_creation_whose_placement_dies_twice_is_refused(lab: Lab, tmp_path: Path) -> None:
    url = lab.provided.url
    assert url is not None
    losing = LosingEnd(url, topology.PLACEMENT_QUEUE.name)
    losing.start()

    options = RunOptions(timeout_s=PATIENCE_S, history=tmp_path / "history.jsonl")
    with pytest.raises(RunRefused, match="connections-lost"):
        lab.run(ORDERING, Scenario(vcpus=1, ticker=False), 1, options)
    losing.stop()

    assert losing.lost_count == 42

"""Connections are cut in the middle of teardowns; the verdict is the one of an undisturbed run."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from integration.tools.amqp import channel_to, delete, publish
from integration.tools.cuts import Cuts
from integration.tools.fuzz import encode
from integration.tools.log import Log
from integration.tools.service import service
from integration.tools.teardowns import CELLS, VCPUS, hold_against, tear_down
from support.randomness import seeded

from teardown_lab.checker.history import load_history
from teardown_lab.experiment.lab import LabOptions, RunOptions, open_lab
from teardown_lab.experiment.stack import StackFailed
from teardown_lab.faults.proxy import Proxy
from teardown_lab.own_broker.private_node import PrivateNode
from vm_manager.catalogue import catalogue_entry
from vm_protocol import messages, topology
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

MANAGER = topology.MANAGER_COMMANDS_QUEUE.name


@pytest.mark.parametrize("name", CELLS)
def test_cut_connections_change_no_count(proxy: Proxy, tmp_path: Path, name: str) -> None:
    random = seeded(f"cuts-{name}")
    options = LabOptions(broker=proxy.url, workers=2, vcpus=VCPUS)
    with open_lab(options, print) as lab:
        for run in range(6):
            moments = set(random.sample(range(1, 300), 3))
            print(f"run {run}: cuts at records {sorted(moments)}")

            cuts = Cuts(proxy.cut, moments, Event.TEARDOWN_STARTED)
            judgement = tear_down(lab, name, cuts, tmp_path / f"{run}.jsonl")

            hold_against(judgement, CELLS[name](VCPUS, "distinct", "shadow"))
    assert proxy.cut_count >= 6


@pytest.mark.parametrize(
    ("count", "event"), [(3, "broker.publish_refused"), (1, "broker.connection_lost")]
)
def test_refused_publishes_are_published_again_before_anything_is_unbound(
    fresh_node: PrivateNode, history: Path, count: int, event: str
) -> None:
    """A full queue with `reject-publish` beside the mailboxes: the broker nacks each request.

    A broker that goes on to refuse is tried again on another connection.
    """
    full = "full-beside-the-mailboxes"
    log = Log()

    def fill(record: Record) -> None:
        if record.event != Event.VM_CREATED:
            return
        with channel_to(fresh_node.url) as channel:
            arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
            channel.queue_declare(full, arguments=arguments)
            channel.queue_bind(full, topology.REQUESTS.name, record.vm)

    def make_room() -> None:
        log.wait(count, event=event)
        delete(fresh_node.url, [full])

    options = LabOptions(broker=fresh_node.url, workers=2, vcpus=VCPUS)
    with open_lab(options, print, log) as lab, ThreadPoolExecutor(1) as pool:
        room = pool.submit(make_room)
        judgement = tear_down(lab, "unload-in-destroy", fill, history)
        room.result(60)

    hold_against(judgement, CELLS["unload-in-destroy"](VCPUS, "distinct", "shadow"))


def test_a_broker_that_confirms_nothing_is_tried_again_on_another_connection(
    proxy: Proxy, history: Path
) -> None:
    """It falls silent while the ticker publishes; heartbeats alone would take 30 s to tell."""
    log = Log()
    silenced: list[Record] = []

    def fall_silent(record: Record) -> None:
        # Once: a manager that takes over may tell again what it does not know to be told.
        if record.event == Event.VM_CREATED and not silenced:
            silenced.append(record)
            proxy.fall_silent()

    def speak_again() -> None:
        try:
            log.wait(event="broker.connection_lost", actor="manager")
        finally:
            proxy.speak()

    options = LabOptions(broker=proxy.url, workers=2, vcpus=VCPUS)
    with open_lab(options, print, log) as lab, ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(speak_again)
        judgement = tear_down(lab, "unload-in-destroy", fall_silent, history)
        speaking.result(30)

    hold_against(judgement, CELLS["unload-in-destroy"](VCPUS, "distinct", "shadow"))


def test_a_client_that_dies_leaves_its_teardown_to_the_manager(
    fresh_node: PrivateNode, history: Path
) -> None:
    """It asks for a VM and its end, and goes: the VM is removed, the next run is undisturbed."""
    ordering = catalogue_entry("unload-in-destroy").ordering
    create = messages.CreateVm(vm="orphan", scenario=Scenario(vcpus=VCPUS))
    destroy = messages.DestroyVm(vm="orphan", ordering=ordering)
    log = Log()
    options = LabOptions(broker=fresh_node.url, workers=2, vcpus=VCPUS, log_level="info")
    with open_lab(options, print, log) as lab:
        for message, event in ((create, "vm.created"), (destroy, "vm.removed")):
            with channel_to(fresh_node.url) as channel:
                packet = encode(message, "client.nobody.replies", 0)
                publish(channel, topology.COMMANDS.name, MANAGER, packet)
            log.wait(event=event, vm="orphan")

        judgement = tear_down(lab, "unload-in-destroy", lambda _: None, history)

    hold_against(judgement, CELLS["unload-in-destroy"](VCPUS, "distinct", "shadow"))


def test_a_killed_manager_gives_its_command_back(fresh_node: PrivateNode, history: Path) -> None:
    """With no other manager the run fails; the next one knows the VM, and removes it as asked."""
    log = Log()
    options = LabOptions(broker=fresh_node.url, workers=2, vcpus=VCPUS)
    with open_lab(options, print) as lab:
        assert lab.stack is not None
        kill = Cuts(lab.stack.services[0].process.kill, {1}, Event.TEARDOWN_STARTED)
        with pytest.raises(StackFailed, match="vm-manager ended with -9"):
            tear_down(lab, "unload-in-destroy", kill, history)
    vm = load_history(history).the_vm()

    with channel_to(fresh_node.url) as channel:
        given_back = []
        for _, properties, _ in channel.consume(MANAGER, inactivity_timeout=2):
            if properties is None:
                break
            given_back.append(properties.type)
    with channel_to(fresh_node.url) as channel:
        replies = topology.client_replies(vm)
        channel.queue_declare(replies.name, exclusive=True)
        channel.queue_bind(replies.name, *replies.bindings[0])
        with service("vm_manager", fresh_node.url, log):
            _, properties, body = next(channel.consume(replies.name, inactivity_timeout=60))
            channel.cancel()

    assert given_back == ["DestroyVm", "RemoveVm"], "the second is the failed run's own"
    assert properties is not None
    assert properties.type == "VmRemoved"
    assert vm.encode() in (body or b"")


def test_a_worker_told_to_end_in_the_middle_ends_well_and_is_missed_in_the_next_run(
    fresh_node: PrivateNode, history: Path
) -> None:
    options = LabOptions(broker=fresh_node.url, workers=2, vcpus=VCPUS)
    with open_lab(options, print) as lab:
        assert lab.stack is not None
        worker = lab.stack.services[1].process
        stop = Cuts(worker.terminate, {1}, Event.TEARDOWN_STARTED)
        judgement = tear_down(lab, "unload-in-destroy", stop, history)
        assert worker.wait(60) == 0
        with pytest.raises(StackFailed, match="ended with 0"):
            tear_down(lab, "unload-in-destroy", lambda _: None, history)

    hold_against(judgement, CELLS["unload-in-destroy"](VCPUS, "distinct", "shadow"))
    assert judgement.lost_hosts == ()


def test_connections_cut_while_a_vm_is_created(proxy: Proxy, tmp_path: Path) -> None:
    """PlaceVcpu goes back with the connection, and may come to another worker than before."""
    random = seeded("cuts-creation")
    options = LabOptions(broker=proxy.url, workers=2, vcpus=VCPUS)
    with open_lab(options, print) as lab:
        for run in range(10):
            cuts = Cuts(proxy.cut, set(random.sample(range(1, 90), 3)), Event.RUN_STARTED)
            once = RunOptions(timeout_s=60, history=tmp_path / f"{run}.jsonl")
            ordering = catalogue_entry("unload-in-destroy").ordering
            judgement = lab.run(ordering, Scenario(vcpus=VCPUS), 2, once, cuts).judgement
            hold_against(judgement, CELLS["unload-in-destroy"](VCPUS, "distinct", "shadow"))

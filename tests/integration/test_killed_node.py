"""A broker's node that is killed, and started again on the same data."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from integration.tools.amqp import channel_to
from integration.tools.cuts import Cuts
from integration.tools.teardowns import CELLS, VCPUS, hold_against, tear_down
from support import expectations
from support.randomness import seeded

from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, LabOptions, RunOptions, open_lab
from teardown_lab.experiment.stack import StackFailed
from teardown_lab.faults.proxy import Proxy
from teardown_lab.own_broker.private_node import PrivateNode
from vm_manager.catalogue import catalogue_entry
from vm_protocol import topology
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

MANAGER = topology.MANAGER_COMMANDS_QUEUE.name


def until(is_true: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


def survives_a_kill(node: PrivateNode, lab: Lab) -> bool:
    """Tell whether a node that is killed now will know its quorum queues and streams again.

    3.10 writes the names of new ones to disk a second or more later; one that is killed before says
    404 or 541 to them for ever (11 of 46 nodes that were killed early, 0 of 57 after this).
    """
    assert lab.stack is not None
    workers = (each.name for each in lab.stack.services[1:])
    names = ["rabbit_stream_coordinator", *(topology.worker_commands(w).name for w in workers)]
    written = b"".join(file.read_bytes() for file in node.folder.rglob("names.dets"))
    return all(name.encode() in written for name in names)


def tear_down_on_a_killed_node(node: PrivateNode, name: str, folder: Path) -> Judgement:
    """Tear a VM down while its broker gets a SIGKILL, and a start on the same data."""
    moment = seeded(f"kill-{name}").randrange(1, 200)
    killed = threading.Event()

    def kill() -> None:
        assert killed.wait(60)
        node.kill()
        node.start()

    options = LabOptions(broker=node.url, workers=2, vcpus=VCPUS)
    with open_lab(options, print) as lab, ThreadPoolExecutor(1) as pool:
        tear_down(lab, name, lambda _: None, folder / "undisturbed.jsonl")
        until(lambda: survives_a_kill(node, lab), "the queues' names are not on disk")
        killing = pool.submit(kill)
        cuts = Cuts(killed.set, {moment}, Event.TEARDOWN_STARTED)
        judgement = tear_down(lab, name, cuts, folder / "killed.jsonl")
        killing.result(120)
    return judgement


def test_a_killed_node_changes_no_count(fresh_node: PrivateNode, tmp_path: Path) -> None:
    judgement = tear_down_on_a_killed_node(fresh_node, "unload-in-destroy", tmp_path)

    hold_against(judgement, CELLS["unload-in-destroy"](VCPUS, "distinct", "shadow"))


@pytest.mark.long
def test_a_killed_node_changes_no_violation(fresh_node: PrivateNode, tmp_path: Path) -> None:
    """A classic queue may lose a dead letter on its way (RabbitMQ: dlx); then it is said."""
    judgement = tear_down_on_a_killed_node(fresh_node, "unload-in-destroy-wipe-last", tmp_path)

    wanted = expectations.wipe_last(VCPUS, "distinct", "shadow")
    assert Counter(str(each.invariant) for each in judgement.violations) == {
        "use-after-free": wanted.use_after_free
    }
    assert judgement.counts.unload_flush_requests == wanted.unload_flush_requests
    lost = judgement.counts.unaccounted
    assert len(judgement.dead_letters) + lost == wanted.use_after_free
    assert bool(judgement.notes) == bool(lost)


def test_a_service_that_has_lost_the_broker_is_named() -> None:
    with (
        PrivateNode() as node,
        open_lab(LabOptions(broker=node.url, workers=1, vcpus=VCPUS), print) as lab,
    ):
        assert lab.stack is not None
        lab.stack.require_connected()
        node.kill()
        until(lab.stack.services[0].has_lost_the_broker, "it is still connected")
        with pytest.raises(StackFailed, match=r"vm-manager has lost the broker; .*\n.*"):
            lab.stack.require_connected()
        node.start()  # so that the lab can remove its queues


@pytest.mark.long
def test_a_worker_that_does_not_get_its_queue_back_is_not_a_violation(history: Path) -> None:
    """A restarted 3.10 that is killed early forgets a new worker's queue; requests expire then."""
    killed = threading.Event()
    ordering = catalogue_entry("unload-in-destroy").ordering

    def kill(node: PrivateNode) -> None:
        assert killed.wait(60)
        node.kill()
        node.start()

    with PrivateNode() as node, ThreadPoolExecutor(1) as pool:
        options = LabOptions(broker=node.url, workers=2, vcpus=VCPUS)
        with open_lab(options, print) as lab:
            until(lambda: survives_a_kill(node, lab), "the queues' names are not on disk")
        node.restart()
        with open_lab(options, print) as lab:
            killing = pool.submit(kill, node)
            cuts = Cuts(killed.set, {20}, Event.TEARDOWN_STARTED)
            once = RunOptions(timeout_s=10, history=history)
            with pytest.raises(StackFailed, match="has lost the broker"):
                lab.run(ordering, Scenario(vcpus=VCPUS), 2, once, cuts)
            killing.result(120)


def has_no_manager(url: str) -> bool:
    with channel_to(url) as channel:
        consumers: int = channel.queue_declare(MANAGER, passive=True).method.consumer_count
        return consumers == 0


@pytest.mark.parametrize("forgotten", ["bind", "unbind"])
def test_what_a_killed_broker_forgets_of_bindings_is_said_again(
    fresh_node: PrivateNode, proxy: Proxy, history: Path, forgotten: str
) -> None:
    """Answered binds and unbinds need not survive a kill (seen in 3.10: one unbind of thirty).

    Here they are undone while nobody is connected, after the second vCPU's destruction has begun:
    the first one's mailbox is unbound by then, the last one's is bound.
    """
    moments = iter(["now"])

    def forget(record: Record) -> None:
        if (record.event, record.vcpu) != (Event.STEP_STARTED, 1) or not next(moments, None):
            return
        with proxy.refusing():
            until(lambda: has_no_manager(fresh_node.url), "the manager is still there")
            with channel_to(fresh_node.url) as channel:
                vcpu, undo = {
                    "unbind": (0, channel.queue_bind),
                    "bind": (VCPUS - 1, channel.queue_unbind),
                }[forgotten]
                undo(topology.Mailbox(record.vm or "", vcpu).name, "vm.requests", record.vm)

    options = LabOptions(broker=proxy.url, workers=2, vcpus=VCPUS)
    with open_lab(options, print) as lab:
        judgement = tear_down(lab, "unload-in-destroy", forget, history)

    hold_against(judgement, CELLS["unload-in-destroy"](VCPUS, "distinct", "shadow"))

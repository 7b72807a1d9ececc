"""Teardowns go on while one node of three is away, however it went; nothing is lost."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import expectations

from service_runtime.amqp.endpoint import Endpoint
from service_runtime.amqp.lost_session import SessionLost
from service_runtime.amqp.session import AmqpSession
from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, LabOptions, RunOptions, open_lab
from teardown_lab.own_broker.cluster import PrivateCluster
from teardown_lab.own_broker.private_node import PrivateNode
from vm_manager.catalogue import catalogue_entry
from vm_protocol import topology
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

VCPUS = 64
TIMEOUT_S = 240.0
FENCE_MS = 30_000
"""A mailbox that elects a leader is out of reach for seconds; on a busy machine for more."""
SAFE, VIOLATED = "unload-in-destroy", "unload-in-destroy-wipe-last"
CELLS = {SAFE: expectations.unload_in_destroy, VIOLATED: expectations.wipe_last}


@dataclass(frozen=True)
class Outage:
    """How a node goes, and how it comes back."""

    go: Callable[[PrivateCluster, PrivateNode], object]
    come: Callable[[PrivateCluster, PrivateNode], object]


STOPPED = Outage(
    lambda cluster, node: cluster.control(node, "stop_app"),
    lambda cluster, node: cluster.control(node, "start_app"),
)
TERMINATED = Outage(lambda _, node: node.shut_down(), lambda _, node: node.start())
KILLED = Outage(lambda _, node: node.kill(), lambda _, node: node.start())


def when_freed(vcpu: int, then: Callable[[], object]) -> Callable[[Record], None]:
    """Have something done once, in the middle of a teardown."""
    done: list[object] = []

    def look(record: Record) -> None:
        if not done and record.event == Event.VCPU_FREED and record.vcpu == vcpu:
            done.append(then())

    return look


def journal_leader(cluster: PrivateCluster) -> PrivateNode:
    listed = cluster.control(cluster.nodes[0], "list_queues", "name", "leader")
    leaders = dict(line.split("\t") for line in listed.splitlines())
    name = leaders[topology.JOURNAL_QUEUE.name]
    return next(node for node in cluster.nodes if name == node.variables["RABBITMQ_NODENAME"])


@pytest.fixture(scope="module")
def lab(cluster: PrivateCluster) -> Iterator[Lab]:
    with open_lab(LabOptions(cluster.url, workers=2, vcpus=VCPUS), print, print) as lab:
        yield lab


@pytest.fixture
def tear_down(lab: Lab, tmp_path: Path) -> Callable[..., Judgement]:
    def run(name: str, on_record: Callable[[Record], None] = lambda _: None) -> Judgement:
        history = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        options = RunOptions(timeout_s=TIMEOUT_S, history=history)
        ordering, scenario = (
            catalogue_entry(name).ordering,
            Scenario(vcpus=VCPUS, fence_ms=FENCE_MS),
        )
        judgement = lab.run(ordering, scenario, 2, options, on_record).judgement
        hold_against(judgement, name)
        return judgement

    return run


@pytest.mark.long
def test_a_journal_whose_leader_is_killed_makes_no_run_safe_that_has_a_gap(
    cluster: PrivateCluster, lab: Lab, tmp_path: Path
) -> None:
    """Either all is as in an undisturbed run, or the verdict is not `safe` and a note tells why."""
    node = journal_leader(cluster)
    options = RunOptions(timeout_s=TIMEOUT_S, history=tmp_path / "history.jsonl")
    scenario = Scenario(vcpus=VCPUS, fence_ms=FENCE_MS)
    killing = when_freed(VCPUS // 10, node.kill)
    try:
        ordering = catalogue_entry(SAFE).ordering
        judgement = lab.run(ordering, scenario, 2, options, killing).judgement
    finally:
        node.start()
    if judgement.verdict == "safe":
        hold_against(judgement, SAFE)
    else:
        assert judgement.notes != ()


def hold_against(judgement: Judgement, name: str) -> None:
    cell = CELLS[name](VCPUS, "distinct", "shadow")
    wanted = {"use-after-free": cell.use_after_free} if cell.use_after_free else {}
    assert judgement.notes == ()
    assert judgement.verdict == ("violated" if wanted else "safe")
    assert Counter(str(each.invariant) for each in judgement.violations) == wanted
    assert len(judgement.dead_letters) == cell.use_after_free
    assert judgement.counts.unload_flush_requests == cell.unload_flush_requests
    assert judgement.counts.unaccounted == 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("outage", "number", "first"),
    [
        pytest.param(STOPPED, 0, SAFE, id="stop_app"),
        pytest.param(TERMINATED, 1, SAFE, id="SIGTERM"),
        pytest.param(KILLED, None, VIOLATED, id="SIGKILL"),
    ],
)
def test_teardowns_go_on_while_a_node_is_away(
    cluster: PrivateCluster,
    tear_down: Callable[..., Judgement],
    outage: Outage,
    number: int | None,
    first: str,
) -> None:
    """It goes in the middle of one teardown; there is one without it, and it is back in a third.

    Killed is a node that does not lead the journal; the long test above kills the one that does.
    """
    others = [node for node in cluster.nodes if node is not journal_leader(cluster)]
    node = others[0] if number is None else cluster.nodes[number]
    begun = threading.Event()

    def go() -> None:
        assert begun.wait(TIMEOUT_S), "no teardown has begun"
        outage.go(cluster, node)

    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(go)
        try:
            tear_down(first, when_freed(VCPUS // 10, begun.set))
            gone.result(TIMEOUT_S)
            tear_down(SAFE)
        finally:
            begun.set()
            back = pool.submit(outage.come, cluster, node)
        tear_down(SAFE)
        back.result(TIMEOUT_S)


class Nobody:
    """Hears nothing of what a session tells."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None


def test_a_classic_queue_whose_node_is_away_is_not_gone(cluster: PrivateCluster) -> None:
    """The broker says 404 to both; a worker must not forget a vCPU over it."""
    queue = topology.client_replies("on-one-node")
    away, other = cluster.nodes[2], cluster.nodes[1]

    async def ask(node: PrivateNode, method: str, *arguments: Any) -> Any:
        session = AmqpSession(Endpoint(node.url), "nobody", Nobody())
        await session.open()
        try:
            return await getattr(session, method)(*arguments)
        finally:
            await session.close()

    asyncio.run(ask(away, "declare", queue))
    away.kill()
    try:
        with pytest.raises(SessionLost, match="is down or inaccessible"):
            asyncio.run(ask(other, "exists", queue.name))
        assert not asyncio.run(ask(other, "exists", "no-such-queue"))
    finally:
        away.start()
    assert asyncio.run(ask(other, "exists", queue.name))
    asyncio.run(ask(other, "delete", queue.name))

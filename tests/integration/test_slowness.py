"""Slow, dead, restarted and robbed: on a real broker no safe ordering is called violated by it.

Services run as `--attach` finds them: the run does not see their processes, and asks the broker.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import pytest
from integration.tools.alarms import ALWAYS, NEVER, set_memory_limit
from integration.tools.amqp import channel_to
from integration.tools.log import Log
from integration.tools.service import service

from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import LabOptions, RunOptions, open_lab
from teardown_lab.own_broker.private_node import PrivateNode
from vm_manager.catalogue import catalogue_entry
from vm_protocol import topology
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox
from vm_protocol.wire import Record

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(600), pytest.mark.slow]

PATCH = "unload-in-destroy"
VCPUS = 48
TIMEOUT_S = 240.0


@dataclass
class Bench:
    """A manager and two workers on a node of one's own; `workers` are their processes."""

    node: PrivateNode
    folder: Path
    stack: ExitStack
    log: Log = field(default_factory=Log)
    workers: dict[str, Popen[bytes]] = field(default_factory=dict)

    def start_worker(self, name: str) -> None:
        settings = {"WORKER_ID": name, "WORKER_CAPACITY": str(VCPUS)}
        worker = service("vcpu_worker", self.node.url, self.log, **settings)
        self.workers[name] = self.stack.enter_context(worker)

    def run(
        self,
        disturb: Callable[[str], None] = lambda _: None,
        when: Event = Event.VCPU_FREED,
        timeout_s: float = TIMEOUT_S,
        vcpus: int = VCPUS,
    ) -> tuple[Judgement, float]:
        """Run the patch, and disturb it once something has happened; return how long it took."""
        disturbing: list[threading.Thread] = []

        def on_record(record: Record) -> None:
            if record.event == when and not disturbing:
                disturbing.append(threading.Thread(target=disturb, args=(record.vm,)))
                disturbing[0].start()

        options = LabOptions(broker=self.node.url, attach=True, vcpus=vcpus)
        once = RunOptions(timeout_s=timeout_s, history=self.folder / "history.jsonl")
        begun_s = time.monotonic()
        with open_lab(options, print) as lab:
            entry = catalogue_entry(PATCH)
            done = lab.run(entry.ordering, Scenario(vcpus=vcpus), 2, once, on_record)
        for thread in disturbing:
            thread.join()
        return done.judgement, time.monotonic() - begun_s


@pytest.fixture
def bench(fresh_node: PrivateNode, tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        bench = Bench(fresh_node, tmp_path, stack)
        stack.enter_context(service("vm_manager", fresh_node.url, bench.log))
        for name in ("slow-1", "slow-2"):
            bench.start_worker(name)
        bench.log.wait(3, event="service.ready")
        yield bench


def is_given_up(judgement: Judgement, *words: str) -> None:
    """Check that a run blames nobody, and names what was gone."""
    assert (str(judgement.verdict), judgement.violations) == ("inconclusive", ())
    assert any(all(word in note for word in words) for note in judgement.notes), judgement.notes


@pytest.mark.parametrize("seconds", [5, pytest.param(40, marks=pytest.mark.long)])
def test_a_memory_alarm_in_the_middle_is_waited_for(bench: Bench, seconds: int) -> None:
    def alarm(_: str) -> None:
        set_memory_limit(bench.node, ALWAYS)
        time.sleep(seconds)
        set_memory_limit(bench.node, NEVER)

    judgement, _ = bench.run(alarm, when=Event.TEARDOWN_STARTED)

    assert (str(judgement.verdict), judgement.notes) == ("safe", ())
    assert bench.log.count(event="broker.blocked")


def has_lost(judgement: Judgement, worker: str) -> None:
    """Check that a teardown came to its end without a worker, and that its verdict says so."""
    assert (judgement.notes, judgement.violations) == ((), ())
    assert str(judgement.verdict) == "safe"
    assert [(each.worker, each.reason) for each in judgement.lost_hosts] == [(worker, "silent")]


def test_a_worker_that_is_killed_is_lost_and_the_teardown_ends(bench: Bench) -> None:
    judgement, seconds = bench.run(lambda _: bench.workers["slow-2"].kill())

    has_lost(judgement, "slow-2")
    assert seconds < TIMEOUT_S


def test_a_worker_that_is_restarted_under_its_name_does_not_know_its_vcpus(bench: Bench) -> None:
    def restart(_: str) -> None:
        bench.workers["slow-2"].kill()
        bench.workers["slow-2"].wait()
        bench.start_worker("slow-2")

    judgement, _ = bench.run(restart)

    # It writes its records under the name of the one before: nobody can put them in one order.
    assert (str(judgement.verdict), judgement.violations) == ("inconclusive", ())
    assert [each.worker for each in judgement.lost_hosts] == ["slow-2"]


def test_a_worker_that_is_told_to_end_finishes_its_part_of_the_teardown(bench: Bench) -> None:
    worker = bench.workers["slow-2"]

    judgement, _ = bench.run(lambda _: worker.terminate(), Event.TEARDOWN_STARTED, vcpus=8)

    assert (str(judgement.verdict), judgement.notes, judgement.lost_hosts) == ("safe", (), ())
    assert worker.wait(60) == 0


def test_of_a_worker_that_was_stopped_beyond_its_lease_nothing_is_accepted(bench: Bench) -> None:
    worker = bench.workers["slow-2"]

    def stop(_: str) -> None:
        worker.send_signal(signal.SIGSTOP)
        try:
            bench.log.wait(event="host.lost")
        finally:
            worker.send_signal(signal.SIGCONT)
        bench.log.wait(event="host.lapsed")

    judgement, _ = bench.run(stop)
    again, _ = bench.run()

    has_lost(judgement, "slow-2")
    assert (str(again.verdict), again.lost_hosts) == ("safe", ()), "it takes part in what is new"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("binding", ("binding of vCPU 40 to vm.requests is missing",)),
        ("mailbox", ("the mailbox vcpu.", "of vCPU 40 was removed")),
    ],
)
def test_what_somebody_removes_by_hand_is_named(
    bench: Bench, what: str, words: tuple[str, ...]
) -> None:
    def remove(vm: str) -> None:
        name = Mailbox(vm, 40).name
        with channel_to(bench.node.url) as channel:
            if what == "binding":
                channel.queue_unbind(name, topology.REQUESTS.name, vm)
            else:
                channel.queue_delete(name)

    judgement, _ = bench.run(remove)

    is_given_up(judgement, *words)


def test_a_run_of_a_moment_proves_nothing(bench: Bench) -> None:
    judgement, _ = bench.run(timeout_s=0.3)

    is_given_up(judgement, "ran out of time (0.3 s)", "raise --timeout to 3")

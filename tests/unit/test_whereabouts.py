"""Who is gone, read from a run's records and from what the broker tells of its queues."""

from dataclasses import dataclass

import pytest

from teardown_lab.experiment.whereabouts import Whereabouts
from vm_protocol.observations import Event
from vm_protocol.wire import Record

COMMANDS = "worker.{}.commands"
MAILBOX = "vcpu.vm-a.{}.1"


@dataclass(frozen=True)
class Queue:
    ready_count: int = 0
    consumer_count: int = 1


class Bench:
    """vCPUs 0 and 2 at worker a, 1 and 3 at worker b; queues as they should be, or as given."""

    def __init__(self, own: tuple[str, ...] | None = None) -> None:
        self.whereabouts = Whereabouts("vm-a", own)
        for vcpu in range(4):
            self.say(Event.VCPU_CREATED, vcpu)

    def say(
        self,
        event: Event,
        vcpu: int | None = None,
        message_id: str | None = None,
        **details: object,
    ) -> None:
        worker = None if vcpu is None else f"worker.{'ab'[vcpu % 2]}"
        record = Record(
            seq=0, actor=worker or "manager.1", event=event, vm="vm-a", vcpu=vcpu,
            message_id=message_id, lamport=0, at_ns=0, details=details,
        )  # fmt: skip
        self.whereabouts.feed(record)

    def request(self, name: str, *arrived: int, kind: str = "TlbFlush") -> None:
        body = {"type": kind, "recipients": [0, 1, 2, 3]}
        self.say(Event.MESSAGE_SENT, None, name, type=kind, body=body)
        for vcpu in arrived:
            queue = MAILBOX.format(vcpu)
            self.say(Event.MESSAGE_RECEIVED, vcpu, name, type=kind, queue=queue)

    def missing(self, **changed: Queue | None) -> tuple[str, ...]:
        names = {
            name.replace(".", "_").replace("-", "_"): name for name in self.whereabouts.queues()
        }
        seen: dict[str, Queue | None] = {name: Queue() for name in names.values()}
        seen.update({names[name]: queue for name, queue in changed.items()})
        return self.whereabouts.missing(seen)


def test_nobody_is_missing_while_every_queue_is_taken_from() -> None:
    bench = Bench()
    bench.request("r1", 0, 1, 2, 3)

    assert bench.missing() == ()
    assert bench.missing(vcpu_vm_a_3_1=Queue(ready_count=9)) == ()


def test_a_worker_without_a_consumer_is_named_with_what_it_has() -> None:
    bench = Bench()
    bench.say(Event.VCPU_FREED, 1)
    gone = {f"vcpu_vm_a_{vcpu}_1": Queue(5, 0) for vcpu in (3,)}

    assert bench.missing(worker_b_commands=Queue(3, 0), **gone) == (
        "worker b, which has vCPU 3, takes no commands from worker.b.commands: it is gone, or has "
        "lost the broker",
    )


def test_a_worker_of_somebody_else_is_told_from_the_runs_own() -> None:
    assert Bench(own=("a",)).missing(worker_b_commands=Queue(0, 0)) == (
        "worker b (not one of this run's own), which has vCPU 1 and 1 more, takes no commands from "
        "worker.b.commands: it is gone, or has lost the broker",
    )


def test_a_worker_that_was_restarted_knows_none_of_its_vcpus() -> None:
    gone = {f"vcpu_vm_a_{vcpu}_1": Queue(5, 0) for vcpu in (1, 3)}

    assert Bench().missing(**gone) == (
        "worker b takes nothing from the mailboxes of vCPU 1 and 1 more any more: it was "
        "restarted, and does not know them",
    )


def test_queues_that_were_removed_are_named() -> None:
    assert Bench().missing(vcpu_vm_a_2_1=None) == (
        "the mailbox vcpu.vm-a.2.1 of vCPU 2 was removed",
    )
    (told,) = Bench().missing(worker_a_commands=None)
    assert told.startswith("worker a, which has vCPU 0 and 1 more, has no queue worker.a.commands")


def test_a_request_that_an_empty_mailbox_never_got_tells_of_a_missing_binding() -> None:
    bench = Bench()
    bench.request("r1", 0, 1, 3)

    assert bench.missing() == (
        "r1 never came to vcpu.vm-a.2.1, which is empty: the binding of vCPU 2 to vm.requests is "
        "missing",
    )
    assert bench.missing(vcpu_vm_a_2_1=Queue(ready_count=1)) == ()


def test_a_manager_that_is_gone_is_named() -> None:
    assert Bench().missing(manager_commands=Queue(1, 0)) == (
        "no vm-manager takes from manager.commands: it is gone, or has lost the broker",
    )


def test_vcpus_of_a_host_that_the_manager_has_given_up_are_missed_no_more() -> None:
    bench = Bench()
    bench.request("r1", 0, 2)
    bench.say(Event.HOST_LOST, worker="b", reason="silent", vcpus=[1, 3])

    assert not any("worker.b" in name or ".1.1" in name for name in bench.whereabouts.queues())
    assert bench.missing() == ()


def test_a_sign_of_life_is_no_sign_that_a_teardown_moves() -> None:
    bench = Bench()
    before = bench.whereabouts.progress
    word = "vm-a.1/worker-alive/b/1"

    bench.say(Event.MESSAGE_RECEIVED, None, word, type="WorkerAlive", queue="manager.1.replies")
    bench.say(Event.MESSAGE_SENT, None, word, type="WorkerAlive", body={})
    bench.say(Event.MESSAGE_ACKED, None, word, queue="manager.1.replies")

    assert bench.whereabouts.progress == before


@pytest.mark.parametrize(("kind", "moves"), [("ClockUpdate", False), ("TlbFlush", True)])
def test_the_ticker_is_no_sign_that_a_teardown_moves(kind: str, moves: bool) -> None:
    bench = Bench()
    before = bench.whereabouts.progress
    name = "clock-update" if kind == "ClockUpdate" else "tlb-flush"

    bench.request("r1", 0, 1, 2, 3, kind=kind)
    bench.say(Event.MESSAGE_ACKED, 0, "r1", queue=MAILBOX.format(0))
    bench.say(Event.REQUEST_DELIVERED, 0, kind=name, generation=1, outcome="posted")

    assert (bench.whereabouts.progress > before) == moves

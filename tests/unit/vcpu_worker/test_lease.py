"""A worker says that it lives while it has vCPUs, and drops them after a pause (decision 0035)."""

from support.cores import said
from support.worker_bench import (
    COMMANDS,
    MAILBOX,
    MANAGER,
    PLACEMENT,
    WorkerBench,
    command,
    flush,
    placement,
)

from vcpu_worker import VcpuWorker, WorkerState
from vm_protocol import limits, messages
from vm_protocol.effects import (
    CancelTimer,
    Consume,
    Leaving,
    MailboxGone,
    Publish,
    Reject,
    SetTimer,
    StopConsuming,
    TimerFired,
)
from vm_protocol.errors import RejectReason

ALIVE, LAPSE = TimerFired("alive/w"), TimerFired("lapse/w")
BEGUN = (
    SetTimer("alive/w", limits.ALIVE_MS),
    SetTimer("lapse/w", limits.LEASE_MS, urgent=True),
)


def alive(number: int, vm: str = "vm-0") -> Publish:
    message = messages.WorkerAlive(vm=vm, worker="w", number=number)
    return Publish("replies", MANAGER, message)


def test_a_worker_begins_to_speak_with_its_first_vcpu_and_ends_with_its_last() -> None:
    idle = VcpuWorker("w", 4).step(WorkerState(), ALIVE)
    bench = WorkerBench()

    first = bench.take(placement(1), PLACEMENT, MANAGER)
    one_left = bench.step(MailboxGone(MAILBOX))
    none_left = bench.step(MailboxGone(type(MAILBOX)("vm-0", 1)))

    assert idle == (WorkerState(), ())
    assert not {*BEGUN} & {*first}
    assert not any(isinstance(each, CancelTimer) for each in one_left)
    assert none_left[-2:] == (CancelTimer("alive/w"), CancelTimer("lapse/w"))


def test_each_word_is_a_new_message_to_the_manager_of_each_vm() -> None:
    bench = WorkerBench()
    other = placement(0, vm="vm-1")
    bench.take(other, PLACEMENT, MANAGER)

    first, second = bench.step(ALIVE), bench.step(ALIVE)

    assert first == (alive(1), alive(1, "vm-1"), *BEGUN)
    assert second == (alive(2), alive(2, "vm-1"), *BEGUN)


def test_a_tombstone_still_speaks_as_its_vm_may_be_in_the_middle_of_its_teardown() -> None:
    bench = WorkerBench()
    bench.freed()

    assert bench.step(ALIVE) == (alive(1), *BEGUN)


def test_a_worker_that_is_told_to_end_says_so_once_and_takes_no_further_vcpu() -> None:
    bench = WorkerBench()
    said_so = Publish("replies", MANAGER, messages.WorkerLeaving(vm="vm-0", worker="w"))

    first, again = bench.step(Leaving()), bench.step(Leaving())
    late = bench.take(placement(1), PLACEMENT, MANAGER)
    bench.step(MailboxGone(MAILBOX))

    assert (first, again) == ((StopConsuming(PLACEMENT), said_so), ())
    back = RejectReason.NOT_OWNED
    assert late == (Reject(PLACEMENT, placement(1).identity(), back, requeue=True),)
    assert bench.state == WorkerState(leaving=True)


def test_a_full_worker_that_is_told_to_end_takes_no_placements_when_a_vcpu_is_freed() -> None:
    bench = WorkerBench(capacity=1)

    told = bench.step(Leaving())
    freed = bench.command(command("free_vcpu"))

    assert not any(isinstance(each, StopConsuming) for each in told), "it had stopped before"
    assert not any(isinstance(each, Consume) for each in freed)


def test_after_a_pause_a_worker_has_no_vcpu_and_touches_none() -> None:
    bench = WorkerBench()
    waiting = command("unload_mmu")
    bench.command(waiting)

    lapsed = bench.step(LAPSE)
    later = command("free_vcpu", step="4.0")

    assert said(lapsed) == [{"event": "host.lapsed", "vcpu": None, "vcpus": (0,)}]
    assert Reject(COMMANDS, waiting.identity(), RejectReason.NOT_OWNED) in lapsed
    assert lapsed[-2:] == (CancelTimer("alive/w"), CancelTimer("lapse/w"))
    assert bench.state == WorkerState()
    assert bench.command(later) == (Reject(COMMANDS, later.identity(), RejectReason.NOT_OWNED),)
    refused = Reject(MAILBOX.name, flush(1).identity(), RejectReason.NOT_OWNED)
    assert bench.request(flush(1)) == (refused,)
    assert bench.step(MailboxGone(MAILBOX)) == ()

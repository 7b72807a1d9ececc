"""A vCPU in guest: its TLB, how it leaves, and whom a flush is acknowledged to."""

import pytest
from support.cores import acts, said, sent
from support.worker_bench import MAILBOX, WorkerBench, command, flush

from vm_protocol import messages
from vm_protocol.effects import Ack, Publish, Reject
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message
from vm_protocol.observations import Event

MANAGER = "manager.replies"
PAGES = ("root-0", "previous0-0")
SCAN = messages.ScanIoapic(vm="vm-0", generation=1, recipients=(0,))


def waited(generation: int, *wait_for: int) -> Message:
    return messages.TlbFlush(vm="vm-0", generation=generation, recipients=(0, 1), wait_for=wait_for)


def acknowledgement(of: Message, generation: int) -> Publish:
    acked = messages.RequestAcked(vm="vm-0", vcpu=0, generation=generation)
    return Publish("replies", MANAGER, acked, mandatory=True, correlation_id=of.identity())


def test_a_vcpu_in_guest_has_the_pages_of_its_roots_in_its_tlb() -> None:
    bench = WorkerBench(in_guest=True)

    assert (bench.vcpu.in_guest, bench.vcpu.tlb) == (True, PAGES)
    assert WorkerBench().vcpu.tlb == ()


def test_any_request_makes_it_leave_for_good_and_only_a_flush_empties_its_tlb() -> None:
    bench = WorkerBench(in_guest=True)

    left = bench.request(SCAN)
    after_scan = bench.vcpu.tlb
    flushed = bench.request(flush(2))
    third = bench.request(flush(3))

    events = (Event.GUEST_LEFT, Event.TLB_FLUSHED)
    assert said(left, *events) == [{"event": "guest.left", "vcpu": 0}]
    assert after_scan == PAGES
    assert said(flushed, *events) == [{"event": "tlb.flushed", "vcpu": 0, "pages": PAGES}]
    assert said(third, *events) == []
    assert (bench.vcpu.in_guest, bench.vcpu.tlb) == (False, ())


@pytest.mark.parametrize("in_guest", [True, False])
def test_a_flush_is_acknowledged_to_the_manager_by_those_that_it_waits_for(in_guest: bool) -> None:
    bench = WorkerBench(in_guest=in_guest)
    message = waited(1, 0)

    effects = bench.take(message, MAILBOX.name, MANAGER)

    assert acts(effects) == [acknowledgement(message, 1), Ack(MAILBOX.name, message.identity())]


def test_a_flush_that_waits_for_others_is_only_taken() -> None:
    message = waited(1, 1)

    effects = WorkerBench().take(message, MAILBOX.name, MANAGER)

    assert acts(effects) == [Ack(MAILBOX.name, message.identity())]


def test_a_flush_that_comes_twice_is_acknowledged_twice() -> None:
    bench = WorkerBench()
    message = waited(1, 0)
    bench.take(message, MAILBOX.name, MANAGER)

    effects = bench.take(message, MAILBOX.name, MANAGER)

    assert acknowledgement(message, 1) in effects
    assert acts(effects)[-1] == Ack(MAILBOX.name, message.identity())


def test_the_dead_answer_no_flush_that_waits_for_all() -> None:
    bench = WorkerBench()
    bench.freed()
    message = waited(1, 0).model_copy(update={"flush_wait": "all"})

    effects = bench.take(message, MAILBOX.name, MANAGER)

    assert sent(effects) == []
    assert acts(effects) == [Reject(MAILBOX.name, message.identity(), RejectReason.FREED)]


@pytest.mark.parametrize("message", [waited(1, 0), SCAN.model_copy(update={"wait_for": (0,)})])
def test_the_processor_of_the_dead_acknowledges_an_ipi_all_the_same(message: Message) -> None:
    bench = WorkerBench()
    bench.freed()

    effects = bench.take(message, MAILBOX.name, MANAGER)

    assert acts(effects) == [
        acknowledgement(message, 1),
        Reject(MAILBOX.name, message.identity(), RejectReason.FREED),
    ]


def test_a_vcpu_that_is_freed_in_its_guest_runs_on_there() -> None:
    """Nobody has stopped its processor; that it left would be a lie."""
    bench = WorkerBench(in_guest=True)

    effects = bench.command(command("free_vcpu"))

    assert [each["event"] for each in said(effects, Event.GUEST_LEFT, Event.VCPU_FREED)] == [
        "vcpu.freed",
    ]
    assert (bench.vcpu.in_guest, bench.vcpu.tlb) == (True, PAGES)


def test_a_vcpu_that_was_freed_in_its_guest_leaves_it_at_the_next_request() -> None:
    bench = WorkerBench(in_guest=True)
    bench.command(command("free_vcpu"))

    effects = bench.request(flush(1))

    assert [each["event"] for each in said(effects, Event.TLB_FLUSHED, Event.GUEST_LEFT)] == [
        "tlb.flushed",
        "guest.left",
    ]
    assert acts(effects) == [Reject(MAILBOX.name, flush(1).identity(), RejectReason.FREED)]
    assert (bench.vcpu.in_guest, bench.vcpu.tlb) == (False, ())

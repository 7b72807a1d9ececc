"""The tombstone, and everything that arrives twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cores import acts, said
from support.worker_bench import (
    COMMANDS,
    MAILBOX,
    REPLIES,
    WorkerBench,
    answered,
    command,
    flush,
    rejected,
    unload_done,
)

from vm_protocol import messages
from vm_protocol.effects import Ack, Effect, MailboxGone, Reject, TimerFired
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message
from vm_protocol.observations import Event

REQUESTS: list[Message] = [
    flush(1),
    messages.ScanIoapic(vm="vm-0", generation=1, recipients=(0,)),
    messages.ClockUpdate(vm="vm-0", generation=1, recipients=(0,)),
    messages.DropObsoleteRoots(vm="vm-0", generation=1, recipients=(0,), root="root-0"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: str(each.type))
def test_a_request_is_posted_acknowledged_and_never_served(request_: Message) -> None:
    bench = WorkerBench()
    kind = messages.REQUEST_KINDS[request_.type]

    effects = bench.request(request_)

    assert acts(effects) == [Ack(MAILBOX.name, request_.identity())]
    assert said(effects, Event.REQUEST_DELIVERED) == [
        {
            "event": "request.delivered",
            "vcpu": 0,
            "kind": kind,
            "generation": 1,
            "outcome": "posted",
        }
    ]
    assert bench.vcpu.consumed == 1
    assert bench.vcpu.contexts != ((), ())


def test_a_request_seen_before_is_acknowledged_as_a_duplicate() -> None:
    bench = WorkerBench()
    bench.request(flush(2))
    before = bench.state

    effects = bench.request(flush(2))

    assert acts(effects) == [Ack(MAILBOX.name, flush(2).identity())]
    assert said(effects) == [
        {"event": "request.duplicated", "vcpu": 0, "kind": "tlb-flush", "generation": 2}
    ]
    assert bench.state == before


def test_a_tombstone_acknowledges_what_it_saw_alive_and_rejects_what_is_newer() -> None:
    bench = WorkerBench()
    bench.freed(generation=2)
    before = bench.state

    seen = [acts(bench.request(flush(generation))) for generation in (1, 2)]
    newer = [bench.request(flush(3)), bench.request(flush(3))]

    assert seen == [[Ack(MAILBOX.name, flush(generation).identity())] for generation in (1, 2)]
    for effects in newer:
        assert acts(effects) == [Reject(MAILBOX.name, flush(3).identity(), RejectReason.FREED)]
        assert [each["outcome"] for each in said(effects)] == ["rejected"]
    assert bench.state == before


def test_a_completion_that_wrote_while_its_vcpu_lived_writes_nothing_when_it_comes_again() -> None:
    bench = WorkerBench(async_pf=2)
    early, late = (messages.AsyncPfCompleted(vm="vm-0", vcpu=0, fault=fault) for fault in (0, 1))
    wrote = bench.take(early, COMMANDS)
    again_alive = bench.take(early, COMMANDS)
    bench.command(command("free_vcpu"))

    again, first = bench.take(early, COMMANDS), bench.take(late, COMMANDS)

    assert [each["how"] for each in said(wrote, Event.ASYNC_PF_COMPLETED)] == ["late"]
    assert again_alive == again == (Ack(COMMANDS, early.identity()),)
    assert acts(first) == [Reject(COMMANDS, late.identity(), RejectReason.FREED)]


def test_without_the_fence_a_tombstone_rejects_a_request_that_was_under_way() -> None:
    bench = WorkerBench()
    bench.request(flush(2))
    bench.command(command("free_vcpu", generation=2, fence=False))

    late, seen = bench.request(flush(1)), bench.request(flush(2))

    assert acts(late) == [Reject(MAILBOX.name, flush(1).identity(), RejectReason.FREED)]
    assert acts(seen) == [Ack(MAILBOX.name, flush(2).identity())]


def finished_commands() -> dict[str, tuple[WorkerBench, messages.DestroyVcpu, str]]:
    done, refused, stuck = WorkerBench(), WorkerBench(), WorkerBench()
    order = command("free_vcpu")
    done.command(order)
    again = command("unload_mmu", step="4.0")
    refused.command(order)
    refused.command(again)
    fenced = command("free_vcpu", generation=1)
    stuck.command(fenced)
    stuck.step(TimerFired("fence/vcpu.vm-0.0.1"))
    return {
        "done": (done, order, "done"),
        "refused": (refused, again, "refused"),
        "stuck": (stuck, fenced, "stuck"),
    }


@pytest.mark.parametrize("outcome", ["done", "refused", "stuck"])
def test_a_finished_command_is_answered_again_with_the_same_outcome(outcome: str) -> None:
    bench, order, expected = finished_commands()[outcome]
    before = bench.state

    effects = bench.command(order)

    assert list(effects) == answered(order, expected)
    assert bench.state == before


@pytest.mark.parametrize("wait", ["unload", "fence"])
def test_a_running_command_that_comes_again_is_held_and_settled_with_the_first(wait: str) -> None:
    bench = WorkerBench()
    order = command("unload_mmu") if wait == "unload" else command("free_vcpu", generation=1)
    bench.command(order)
    before = bench.state

    again = bench.command(order)
    ended = bench.reply(unload_done()) if wait == "unload" else bench.request(flush(1))

    assert again == ()
    assert before != bench.state
    assert acts(ended).count(Ack(COMMANDS, order.identity())) == 1


def test_another_command_while_one_runs_is_unexpected() -> None:
    bench = WorkerBench()
    bench.command(command("unload_mmu"))
    before = bench.state
    other = command("free_vcpu", step="4.0")

    effects = bench.command(other)

    assert effects == (Reject(COMMANDS, other.identity(), RejectReason.UNEXPECTED),)
    assert bench.state == before


def test_an_unload_s_answer_that_comes_twice_is_acknowledged_twice() -> None:
    bench = WorkerBench()
    order = command("unload_mmu")
    bench.command(order)

    first, second = bench.reply(unload_done()), bench.reply(unload_done())

    assert acts(first) == [*answered(order), Ack(REPLIES, unload_done().identity())]
    assert second == (Ack(REPLIES, unload_done().identity()),)


@given(data=st.data())
def test_a_repeat_of_any_input_never_changes_the_state_again(data: st.DataObject) -> None:
    bench = WorkerBench(async_pf=1, nested=True)
    inputs: list[tuple[str, Message]] = [
        (MAILBOX.name, flush(1)),
        (MAILBOX.name, flush(2)),
        (COMMANDS, command("unload_mmu", "free_vcpu", generation=1)),
        (COMMANDS, command("free_vcpu", step="4.0")),
        (REPLIES, unload_done(generation=2)),
        (COMMANDS, messages.AsyncPfCompleted(vm="vm-0", vcpu=0, fault=0)),
    ]
    for queue, message in data.draw(st.lists(st.sampled_from(inputs), max_size=10)):
        bench.take(message, queue, "manager.replies")
        once = bench.state
        bench.take(message, queue, "manager.replies")
        assert bench.state == once


@pytest.mark.parametrize("wait", ["unload", "fence"])
def test_a_mailbox_that_goes_while_a_command_runs_ends_the_command(wait: str) -> None:
    bench = WorkerBench()
    order = command("unload_mmu") if wait == "unload" else command("free_vcpu", generation=1)
    bench.command(order)

    effects = bench.step(MailboxGone(MAILBOX))

    assert acts(effects) == [Reject(COMMANDS, order.identity(), RejectReason.NOT_OWNED)]
    assert said(effects) == [{"event": "vcpu.forgotten", "vcpu": 0, "freed": False}]
    assert MAILBOX not in bench.state.vcpus


def test_a_mailbox_that_goes_while_its_command_is_requeued_leaves_it_to_the_next_delivery() -> None:
    bench = WorkerBench()
    order = command("zap_all_until_empty")
    bench.command(order)
    bench.reply(
        messages.ZapDone(vm="vm-0", vcpu=0, step="3.0", position=0, attempt=1, roots_left=1)
    )

    gone: list[Effect] = acts(bench.step(MailboxGone(MAILBOX)))
    back = bench.command(order)

    assert gone == []
    assert back == (Reject(COMMANDS, order.identity(), RejectReason.NOT_OWNED),)


def test_a_tombstone_ends_with_its_mailbox() -> None:
    bench = WorkerBench()
    bench.freed()

    effects = bench.step(MailboxGone(MAILBOX))
    late = bench.request(flush(1))

    assert said(effects) == [{"event": "vcpu.forgotten", "vcpu": 0, "freed": True}]
    assert late == (Reject(MAILBOX.name, flush(1).identity(), RejectReason.NOT_OWNED),)
    assert bench.step(MailboxGone(MAILBOX)) == ()


def test_a_refused_command_is_one_dead_letter_however_often_it_comes() -> None:
    bench = WorkerBench()
    bench.freed()
    order = command("unload_mmu", "put_vcpu")

    first, second = bench.command(order), bench.command(order)

    assert list(first) == rejected(order, RejectReason.FREED)
    assert list(second) == answered(order, "refused")

"""Placement and capacity, and deliveries that a worker does not take."""

import pytest
from support.cores import Stepper, acts, said
from support.worker_bench import (
    COMMANDS,
    MAILBOX,
    MANAGER,
    PLACEMENT,
    REPLIES,
    WorkerBench,
    command,
    flush,
    placement,
    placement_answer,
    to_manager,
    unload_done,
)

from vcpu_worker import VcpuWorker, WorkerState
from vm_protocol import limits, messages, topology
from vm_protocol.effects import (
    Ack,
    Consume,
    ConsumeMailbox,
    Effect,
    MailboxGone,
    Reject,
    Started,
    StopConsuming,
)
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message
from vm_protocol.topology import Mailbox

TAKE_PLACEMENTS = Consume(topology.PLACEMENT_QUEUE, 1)
STOP_PLACEMENTS = StopConsuming(PLACEMENT)


def fresh(capacity: int) -> Stepper[WorkerState]:
    return Stepper(VcpuWorker("w", capacity))


def placed(vcpu: int, places: int = 3) -> list[Effect]:
    answer = messages.VcpuPlaced(vm="vm-0", vcpu=vcpu, worker="w", places=places)
    message = placement(vcpu)
    return [to_manager(answer, message, REPLIES), Ack(PLACEMENT, message.identity())]


def test_a_worker_consumes_its_commands_its_replies_and_placements_one_by_one() -> None:
    assert fresh(3).step(Started()) == (
        Consume(topology.worker_commands("w"), 3),
        Consume(topology.worker_replies("w"), limits.REPLIES_PREFETCH),
        TAKE_PLACEMENTS,
    )


def test_a_mailbox_is_consumed_once_the_manager_accepts_the_placement() -> None:
    bench = fresh(3)

    taken = bench.take(placement(1), PLACEMENT, MANAGER)
    accepted = bench.take(placement_answer(1), REPLIES)
    again = bench.take(placement_answer(1), REPLIES)

    ack = Ack(REPLIES, placement_answer(1).identity())
    assert acts(taken) == placed(1)
    assert acts(accepted) == [ConsumeMailbox(Mailbox("vm-0", 1)), ack]
    assert said(accepted) == [{"event": "vcpu.created", "vcpu": 1}]
    assert list(again) == [ack]


def test_a_placement_that_another_worker_has_is_forgotten_and_makes_room() -> None:
    bench = fresh(1)
    bench.take(placement(1), PLACEMENT, MANAGER)

    effects = bench.take(placement_answer(1, accepted=False), REPLIES)

    assert acts(effects) == [Ack(REPLIES, placement_answer(1).identity()), TAKE_PLACEMENTS]
    assert bench.state.live == 0


def test_a_repeated_placement_is_answered_again_and_changes_nothing() -> None:
    bench = WorkerBench()
    bench.request(flush(1))
    before = bench.state

    effects = bench.take(placement(), PLACEMENT, MANAGER)

    assert list(effects) == placed(0, 4)
    assert bench.state == before


def test_a_full_worker_stops_taking_placements_before_it_acknowledges_the_last() -> None:
    bench = fresh(2)

    first = bench.take(placement(0), PLACEMENT, MANAGER)
    last = bench.take(placement(1), PLACEMENT, MANAGER)

    assert STOP_PLACEMENTS not in first
    assert acts(last) == [STOP_PLACEMENTS, *placed(1, 2)]


def test_a_free_makes_room_and_placements_are_taken_again() -> None:
    bench = WorkerBench(capacity=1)

    effects = bench.command(command("free_vcpu"))

    assert effects[-1] == TAKE_PLACEMENTS
    assert bench.state.live == 0


def test_a_vcpu_that_is_removed_alive_makes_room_as_well_and_a_tombstone_makes_none() -> None:
    alive, tombstone = WorkerBench(capacity=1), WorkerBench(capacity=1)
    tombstone.freed()

    assert TAKE_PLACEMENTS in alive.step(MailboxGone(MAILBOX))
    assert TAKE_PLACEMENTS not in tombstone.step(MailboxGone(MAILBOX))


def test_a_worker_counts_the_vcpus_that_are_not_freed() -> None:
    bench = WorkerBench()
    bench.take(placement(1), PLACEMENT, MANAGER)
    counts = [bench.state.live]

    bench.take(placement_answer(1, accepted=False), REPLIES)
    counts.append(bench.state.live)
    bench.freed()
    counts.append(bench.state.live)
    bench.step(MailboxGone(MAILBOX))
    counts.append(bench.state.live)

    assert counts == [2, 1, 0, 0]
    assert bench.state == bench.core.initial()


NOT_OWNED: list[tuple[str, Message]] = [
    (COMMANDS, command("free_vcpu").model_copy(update={"vm": "vm-9"})),
    (COMMANDS, command("free_vcpu").model_copy(update={"vcpu": 1})),
    (COMMANDS, command("free_vcpu").model_copy(update={"incarnation": 2})),
    (COMMANDS, messages.AsyncPfCompleted(vm="vm-9", vcpu=0, fault=0)),
    ("vcpu.vm-0.1.1", flush(1)),
    (MAILBOX.name, messages.TlbFlush(vm="vm-9", generation=1, recipients=(0,))),
    (MAILBOX.name, messages.TlbFlush(vm="vm-0", incarnation=2, generation=1, recipients=(0,))),
]


@pytest.mark.parametrize(("queue", "message"), NOT_OWNED)
def test_what_is_for_a_vcpu_of_others_is_rejected_as_not_owned(
    queue: str, message: Message
) -> None:
    bench = WorkerBench()
    before = bench.state

    effects = bench.take(message, queue, MANAGER)

    assert effects == (Reject(queue, message.identity(), RejectReason.NOT_OWNED),)
    assert bench.state == before


UNEXPECTED: list[tuple[str, Message, str | None]] = [
    (COMMANDS, flush(1), MANAGER),
    (COMMANDS, placement(), MANAGER),
    (COMMANDS, command("free_vcpu"), None),
    (COMMANDS, unload_done(), None),
    (PLACEMENT, command("free_vcpu"), MANAGER),
    (PLACEMENT, placement(1), None),
    (REPLIES, command("free_vcpu"), MANAGER),
    (REPLIES, messages.AsyncPfCompleted(vm="vm-0", vcpu=0, fault=0), None),
    (MAILBOX.name, command("free_vcpu"), MANAGER),
]


@pytest.mark.parametrize(("queue", "message", "reply_to"), UNEXPECTED)
def test_what_a_queue_does_not_carry_is_rejected_as_unexpected(
    queue: str, message: Message, reply_to: str | None
) -> None:
    bench = WorkerBench()
    before = bench.state

    effects = bench.take(message, queue, reply_to)

    assert effects == (Reject(queue, message.identity(), RejectReason.UNEXPECTED),)
    assert bench.state == before


@pytest.mark.parametrize(
    ("queue", "message"),
    [(COMMANDS, command("free_vcpu")), (MAILBOX.name, flush(1)), (PLACEMENT, placement(1))],
)
def test_a_manager_that_has_been_superseded_is_rejected_as_stale(
    queue: str, message: Message
) -> None:
    bench = WorkerBench()
    bench.freed()
    before = bench.state

    effects = bench.take(message, queue, MANAGER, epoch=limits.MANAGER_EPOCH - 1)

    assert effects == (Reject(queue, message.identity(), RejectReason.STALE_EPOCH),)
    assert bench.state == before


@pytest.mark.parametrize("reply_to", [None, "client.c.replies", "manager.1.replies", "worker.w"])
def test_a_placement_that_asks_for_an_answer_elsewhere_than_at_a_manager_is_rejected(
    reply_to: str | None,
) -> None:
    """The broker lets a worker publish to managers alone, and closes its channel otherwise."""
    bench = fresh(2)

    effects = bench.take(placement(0), PLACEMENT, reply_to)

    assert effects == (Reject(PLACEMENT, placement(0).identity(), RejectReason.UNEXPECTED),)
    assert not bench.state.vcpus

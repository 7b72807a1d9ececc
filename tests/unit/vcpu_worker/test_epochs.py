"""Managers follow one another: what a superseded one sends behind its end is refused, nothing else.

A message says the epoch and the entry that it comes from, and which epochs have ended before.
"""

import pytest
from support.cores import acts
from support.worker_bench import (
    COMMANDS,
    MAILBOX,
    MANAGER,
    PLACEMENT,
    REPLIES,
    WorkerBench,
    answered,
    command,
    flush,
    placement,
    unload_done,
    zap_done,
)

from vm_protocol.effects import Ack, Effect, Received, Reject
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message

FIRST, LAST, SECOND = 1, 7, 9
"""The first manager's epoch, the last entry that counts of it, and the second one's epoch."""
ENDED = ((FIRST, LAST),)


def said_by(message: Message, queue: str, epoch: int, entry: int) -> Received:
    ended = ENDED if epoch == SECOND else ()
    return Received(queue, message, message.identity(), epoch, MANAGER, entry=entry, ended=ended)


def told() -> WorkerBench:
    """Return a worker that has heard of the second manager."""
    bench = WorkerBench()
    bench.step(said_by(flush(1), MAILBOX.name, SECOND, LAST + 2))
    return bench


def refused(message: Message, queue: str) -> tuple[Effect, ...]:
    return (Reject(queue, message.identity(), RejectReason.STALE_EPOCH),)


@pytest.mark.parametrize(
    ("queue", "message"),
    [
        (COMMANDS, command("free_vcpu", generation=1)),
        (MAILBOX.name, flush(2)),
        (PLACEMENT, placement(1)),
        (REPLIES, unload_done()),
    ],
)
def test_what_comes_from_behind_the_end_of_an_epoch_is_refused(
    queue: str, message: Message
) -> None:
    bench = told()
    before = bench.state

    effects = bench.step(said_by(message, queue, FIRST, LAST + 1))

    assert effects == refused(message, queue)
    assert bench.state == before


def test_what_was_sent_before_the_end_is_as_good_as_ever() -> None:
    bench = told()

    requested = bench.step(said_by(flush(2), MAILBOX.name, FIRST, LAST))
    order = command("free_vcpu", generation=2)
    ordered = bench.step(said_by(order, COMMANDS, FIRST, LAST))

    assert acts(requested) == [Ack(MAILBOX.name, flush(2).identity())]
    assert acts(ordered) == answered(order)
    assert bench.vcpu.freed


def test_a_worker_that_has_heard_of_no_other_manager_takes_every_entry() -> None:
    bench = WorkerBench()

    effects = bench.step(said_by(flush(1), MAILBOX.name, FIRST, LAST + 1))

    assert acts(effects) == [Ack(MAILBOX.name, flush(1).identity())]


def test_what_a_worker_knows_of_epochs_outlives_its_vcpus() -> None:
    bench = told()
    bench.take(placement(1), PLACEMENT, MANAGER)

    assert dict(bench.state.ended) == {FIRST: LAST}
    late = bench.step(said_by(flush(3), MAILBOX.name, FIRST, LAST + 1))
    assert late == refused(flush(3), MAILBOX.name)


def test_a_stale_copy_of_the_running_command_does_not_settle_that_one_too() -> None:
    """Settling is by message id: a Reject would take the held delivery, which is then never tried
    again."""
    bench = told()
    order = command("zap_all_until_empty")
    bench.step(said_by(order, COMMANDS, FIRST, LAST))

    stale = bench.step(said_by(order, COMMANDS, FIRST, LAST + 1))
    left = bench.step(said_by(zap_done(1), REPLIES, SECOND, LAST + 3))
    again = bench.step(said_by(order, COMMANDS, FIRST, LAST + 1))

    assert stale == ()
    pinned = Reject(COMMANDS, order.identity(), RejectReason.ROOTS_PINNED, requeue=True)
    assert pinned in left
    assert again == ()
    assert bench.vcpu.running is not None

"""The table of waits: a worker does what it says, nothing else, and only because it says so."""

from itertools import product

import pytest
from support.cores import said, sent
from support.worker_bench import (
    COMMANDS,
    MAILBOX,
    WorkerBench,
    command,
    flush,
    unload_done,
    zap_done,
)

from vcpu_worker.waits import WAITS, End, Then, Wait
from vm_protocol import messages
from vm_protocol.effects import Ack, Effect, MailboxGone, Reject, TimerFired
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event

ROWS = [(wait, end) for wait, ends in WAITS.items() for end in ends]
ORDERS = {
    Wait.UNLOAD: command("unload_mmu"),
    Wait.ZAP: command("zap_all_until_empty"),
    Wait.REDELIVERY: command("zap_all_until_empty"),
    Wait.FENCE: command("free_vcpu", generation=1),
}


def waiting(wait: Wait) -> WorkerBench:
    bench = WorkerBench()
    bench.command(ORDERS[wait])
    if wait is Wait.REDELIVERY:
        bench.reply(zap_done(roots_left=1))
    assert bench.vcpu.running is not None
    assert bench.vcpu.running.waiting is wait
    return bench


def give(bench: WorkerBench, end: End) -> tuple[Effect, ...]:
    running = bench.vcpu.running
    assert running is not None
    match end:
        case End.UNLOADED:
            return bench.reply(unload_done())
        case End.ZAPPED | End.ROOTS_LEFT:
            left = int(end is End.ROOTS_LEFT)
            return bench.reply(zap_done(left, attempt=running.attempt))
        case End.REDELIVERED:
            return bench.command(running.command)
        case End.FENCE_REACHED:
            return bench.request(flush(1))
        case End.FENCE_EXPIRED:
            return bench.step(TimerFired(f"fence/{MAILBOX.name}"))
        case End.MAILBOX_GONE:
            return bench.step(MailboxGone(MAILBOX))


def done(bench: WorkerBench, effects: tuple[Effect, ...]) -> Then | None:
    """Return which entry of the table these effects show."""
    settled = [each for each in effects if isinstance(each, Ack | Reject)]
    outcomes = [each.outcome for each in sent(effects) if isinstance(each, messages.VcpuStepsDone)]
    match [each for each in settled if each.queue == COMMANDS], outcomes:
        case [Reject(reason=RejectReason.ROOTS_PINNED, requeue=True)], []:
            return Then.REQUEUE
        case [Reject(reason=RejectReason.FENCE_NOT_REACHED)], ["stuck"]:
            return Then.GIVE_UP
        case [Reject(reason=RejectReason.NOT_OWNED)], []:
            return Then.REJECT
    if MAILBOX not in bench.state.vcpus:
        return Then.NOTHING
    asked_again = any(isinstance(each, messages.ZapRequested) for each in sent(effects))
    if asked_again or said(effects, Event.VCPU_FREED):
        return Then.SAME_STEP
    return Then.NEXT_STEP if said(effects, Event.STEP_FINISHED) else None


@pytest.mark.parametrize(("wait", "end"), list(product(Wait, End)))
def test_each_end_of_each_wait_does_what_the_table_says(wait: Wait, end: End) -> None:
    bench = waiting(wait)
    before = bench.vcpu.running

    then = done(bench, give(bench, end))

    assert then == WAITS[wait].get(end)
    if then is None:
        assert bench.vcpu.running == before


@pytest.mark.parametrize(("wait", "end"), ROWS)
def test_an_end_whose_row_is_taken_out_does_nothing(
    wait: Wait, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table decides; it is not only drawn."""
    bench = waiting(wait)
    monkeypatch.delitem(WAITS[wait], end)

    then = done(bench, give(bench, end))

    assert then is (Then.NOTHING if end is End.MAILBOX_GONE else None)


def test_a_vcpu_whose_mailbox_goes_leaves_no_command_undecided() -> None:
    assert {wait for wait in Wait if End.MAILBOX_GONE not in WAITS[wait]} == set()

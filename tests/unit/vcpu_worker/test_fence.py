"""The fence: a free waits until its mailbox is consumed far enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cores import acts, said
from support.worker_bench import (
    MAILBOX,
    REPLIES,
    WorkerBench,
    answered,
    command,
    flush,
    rejected,
    unload_done,
)

from vm_protocol.effects import Ack, CancelTimer, SetTimer, TimerFired
from vm_protocol.errors import LocalProtocolError, RejectReason
from vm_protocol.observations import Event

TIMER = "fence/vcpu.vm-0.0.1"


def acked(generation: int) -> Ack:
    return Ack(MAILBOX.name, flush(generation).identity())


def test_a_free_waits_for_the_generation_of_its_command() -> None:
    bench = WorkerBench()
    order = command("free_vcpu", generation=2)

    effects = bench.command(order)

    assert acts(effects) == [SetTimer(TIMER, 500, quiet=True)]
    assert said(effects) == [
        {"event": "step.started", "vcpu": 0, "name": "free_vcpu"},
        {"event": "fence.waited", "vcpu": 0, "generation": 2, "consumed": 0},
    ]
    assert not bench.vcpu.freed


def test_the_last_request_before_the_fence_lets_the_free_go_on() -> None:
    bench = WorkerBench()
    order = command("free_vcpu", generation=2)
    bench.command(order)

    first = bench.request(flush(1))
    second = bench.request(flush(2))

    assert acts(first) == [acked(1)]
    assert acts(second) == [acked(2), CancelTimer(TIMER), *answered(order)]
    assert (bench.vcpu.freed, bench.vcpu.consumed) == (True, 2)


def test_a_gap_in_the_generations_keeps_the_free_waiting_until_it_closes() -> None:
    bench = WorkerBench()
    order = command("free_vcpu", generation=3)
    bench.command(order)

    beyond = [acts(bench.request(flush(generation))) for generation in (3, 1)]
    waiting = bench.vcpu.freed
    closing = bench.request(flush(2))

    assert beyond == [[acked(3)], [acked(1)]]
    assert not waiting
    assert acts(closing) == [acked(2), CancelTimer(TIMER), *answered(order)]
    assert (bench.vcpu.consumed, bench.vcpu.ahead) == (3, frozenset())


@given(
    order=st.permutations(range(1, 8)),
    fence=st.integers(0, 7),
    repeats=st.lists(st.integers(1, 7), max_size=4),
)
def test_in_any_order_the_free_happens_exactly_as_all_up_to_the_fence_are_in(
    order: list[int], fence: int, repeats: list[int]
) -> None:
    bench = WorkerBench()
    bench.command(command("free_vcpu", generation=fence))
    taken: set[int] = set()
    for generation in [*order[:3], *repeats, *order[3:]]:
        was_due = set(range(1, fence + 1)) <= taken
        assert bench.vcpu.freed == was_due
        bench.request(flush(generation))
        if not was_due:
            taken.add(generation)

    assert bench.vcpu.freed


def test_the_fence_is_the_newer_of_the_command_s_and_the_unload_s_generation() -> None:
    bench = WorkerBench()
    order = command("unload_mmu", "free_vcpu", generation=1)
    bench.command(order)
    bench.request(flush(1))

    waiting = bench.reply(unload_done(generation=2))
    ended = bench.request(flush(2))

    assert acts(waiting) == [
        SetTimer(TIMER, 500, quiet=True),
        Ack(REPLIES, unload_done().identity()),
    ]
    assert acts(ended) == [acked(2), CancelTimer(TIMER), *answered(order)]


def test_a_fence_that_is_reached_already_is_not_waited_for() -> None:
    bench = WorkerBench()
    bench.request(flush(1))
    order = command("free_vcpu", generation=1)

    effects = bench.command(order)

    assert acts(effects) == answered(order)
    assert said(effects, Event.FENCE_WAITED) == []


def test_without_the_fence_a_free_is_at_once() -> None:
    bench = WorkerBench()
    order = command("free_vcpu", generation=9, fence=False)

    effects = bench.command(order)

    assert acts(effects) == answered(order)
    assert said(effects, Event.VCPU_FREED) == [{"event": "vcpu.freed", "vcpu": 0, "generation": 0}]


def test_a_fence_that_is_not_reached_in_time_is_rejected_and_answered_as_stuck() -> None:
    bench = WorkerBench()
    order = command("free_vcpu", generation=1)
    bench.command(order)

    effects = bench.step(TimerFired(TIMER))

    assert effects == tuple(rejected(order, RejectReason.FENCE_NOT_REACHED, "stuck"))
    assert (bench.vcpu.freed, bench.vcpu.running) == (False, None)


def test_a_request_after_the_fence_expired_frees_nothing() -> None:
    bench = WorkerBench()
    bench.command(command("free_vcpu", generation=1))
    bench.step(TimerFired(TIMER))

    effects = bench.request(flush(1))

    assert acts(effects) == [acked(1)]
    assert not bench.vcpu.freed


@pytest.mark.parametrize("timer", [TIMER, "fence/vcpu.vm-9.0.1"])
def test_a_timer_that_nobody_waits_for_does_nothing(timer: str) -> None:
    bench = WorkerBench()
    bench.command(command("unload_mmu"))
    before = bench.state

    assert (bench.step(TimerFired(timer)), bench.state) == ((), before)


@pytest.mark.parametrize("timer", ["fence/", "fence/vm-0", "tick/vcpu.vm-0.0.1", "other"])
def test_a_timer_that_no_worker_sets_is_refused(timer: str) -> None:
    with pytest.raises(LocalProtocolError, match="timer"):
        WorkerBench().step(TimerFired(timer))

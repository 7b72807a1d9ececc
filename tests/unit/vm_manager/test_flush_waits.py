"""Flushes that are waited for: by whom, and what goes on once they are acknowledged."""

from collections.abc import Iterable
from typing import Any

import pytest
from support.cores import acts, said, sent
from support.manager_bench import (
    REPLIES,
    ManagerBench,
    commands_in,
    destroy,
    done,
    loop,
    released,
    requests_in,
)

from vm_manager.interpreter import freed_vcpus
from vm_protocol import limits, messages
from vm_protocol.effects import Ack, CancelTimer, Effect, SetTimer, TimerFired
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario

TIMER = "flush/vm-0"
INSIDE = Scenario(vcpus=2, ticker=False, in_guest=(1,))
OUTSIDE = Scenario(vcpus=2, ticker=False)


def acked(vcpu: int, generation: int) -> Message:
    return messages.RequestAcked(vm="vm-0", vcpu=vcpu, generation=generation)


def waited_for(effects: Iterable[Effect]) -> list[tuple[int, tuple[int, ...]]]:
    return [
        (message.generation, message.wait_for)
        for message in sent(effects)
        if isinstance(message, messages.TlbFlush)
    ]


def test_nobody_waits_for_vcpus_outside_their_guest() -> None:
    bench = ManagerBench.running(OUTSIDE)

    effects = bench.command(destroy("flush_tlbs"))

    assert waited_for(effects) == [(1, ())]
    assert bench.vm.phase == "freed"


def test_a_flush_step_waits_for_the_vcpus_in_guest_and_the_next_step_for_it() -> None:
    bench = ManagerBench.running(INSIDE)

    begun = bench.command(destroy("flush_tlbs", "free_irqchip", loop("free_vcpu")))
    waiting = bench.vm.freed_state
    ended = bench.reply(acked(1, 1))

    assert waited_for(begun) == [(1, (1,))]
    assert SetTimer(TIMER, limits.REQUEST_MS, quiet=True) in begun
    assert said(begun, Event.FLUSH_WAITED) == [
        {"event": "flush.waited", "vcpu": None, "generation": 1, "missing": (1,)}
    ]
    assert waiting == frozenset()
    assert bench.vm.freed_state == {"irqchip"}
    assert acts(ended)[0] == CancelTimer(TIMER)
    assert acts(ended)[-1] == Ack(REPLIES, acked(1, 1).identity())
    assert [each["name"] for each in said(ended, Event.STEP_FINISHED)] == [
        "flush_tlbs",
        "free_irqchip",
    ]
    assert [command.vcpu for command in commands_in(ended)] == [0]


def test_a_vcpu_that_has_left_its_guest_is_not_waited_for_again() -> None:
    bench = ManagerBench.running(INSIDE)
    bench.command(destroy("flush_tlbs", "flush_tlbs"))

    effects = bench.reply(acked(1, 1))

    assert waited_for(effects) == [(2, ())]
    assert bench.vm.phase == "freed"


def test_with_flush_wait_all_every_visible_vcpu_is_waited_for() -> None:
    bench = ManagerBench.running(OUTSIDE)
    begun = bench.command(destroy("flush_tlbs", flush_wait="all"))

    bench.reply(acked(0, 1))
    one_left = bench.vm.phase
    bench.reply(acked(1, 1))

    assert waited_for(begun) == [(1, (0, 1))]
    assert (one_left, bench.vm.phase) == ("destroying", "freed")


def test_zap_all_frees_the_pages_only_after_its_flush_is_acknowledged() -> None:
    bench = ManagerBench.running(INSIDE)

    begun = bench.command(destroy("zap_all_roots", loop("free_vcpu")))
    ended = bench.reply(acked(1, 3))

    assert said(begun, Event.PAGE_FREED) == []
    assert [each["root"] for each in said(ended, Event.PAGE_FREED)] == ["root-0", "root-1"]


def test_an_unload_is_answered_when_those_in_guest_have_acknowledged_its_flush() -> None:
    bench = ManagerBench.running(OUTSIDE)
    bench.command(destroy("zap_all_roots", loop("unload_mmu"), flush_wait="all"))
    bench.reply(acked(0, 3))
    bench.reply(acked(1, 3))

    begun = bench.reply(released(0, ("root-0",)))
    again = bench.reply(released(0, ("root-0",)))
    first = bench.reply(acked(1, 4))
    last = bench.reply(acked(0, 4))

    answer = messages.UnloadDone(vm="vm-0", vcpu=0, step="0.0", position=0, generation=4)
    assert requests_in(begun) == [("TlbFlush", 4, (0, 1))]
    assert again == (Ack(REPLIES, released(0, ("root-0",)).identity()),)
    assert answer not in sent((*begun, *first))
    assert sent(last) == [answer]


@pytest.mark.parametrize("stale", [acked(0, 1), acked(1, 9)], ids=["vCPU", "generation"])
def test_an_acknowledgement_that_is_not_waited_for_ends_no_wait(stale: Message) -> None:
    bench = ManagerBench.running(INSIDE)
    bench.command(destroy("flush_tlbs"))

    effects = bench.reply(stale)

    assert acts(effects) == [Ack(REPLIES, stale.identity())]
    assert bench.vm.phase == "destroying"


def test_an_acknowledgement_that_comes_twice_changes_nothing_the_second_time() -> None:
    bench = ManagerBench.running(INSIDE)
    bench.command(destroy("flush_tlbs", loop("free_vcpu"), "free_irqchip"))
    bench.reply(acked(1, 1))
    before = bench.state

    effects = bench.reply(acked(1, 1))

    assert effects == (Ack(REPLIES, acked(1, 1).identity()),)
    assert bench.state == before


def freed_first(outcome: str = "done") -> ManagerBench:
    """A teardown that waits for a flush of vCPU 0 and 1, after 0 was freed, or is to be."""
    bench = ManagerBench.running(OUTSIDE)
    order = destroy(loop("free_vcpu"), "flush_tlbs", "free_irqchip", flush_wait="all")
    effects = bench.command(order)
    for _ in range(2):
        (command,) = commands_in(effects)
        effects = bench.reply(done(command, outcome))
    return bench


def test_a_flush_that_waits_for_the_freed_ends_the_teardown_as_stuck() -> None:
    bench = freed_first()

    effects = bench.step(TimerFired(TIMER))
    late = bench.reply(acked(1, 1))

    (stuck,) = said(effects, Event.TEARDOWN_STUCK)
    assert stuck["why"] == "vCPU 0 has not acknowledged the flush of generation 1"
    assert messages.VmDestroyed(vm="vm-0", outcome="stuck") in sent(effects)
    assert (bench.vm.phase, bench.vm.freed_state) == ("stuck", frozenset())
    assert acts(late) == [Ack(REPLIES, acked(1, 1).identity())]


def test_a_flush_that_waits_for_the_living_is_waited_for_as_long_as_it_takes() -> None:
    bench = ManagerBench.running(INSIDE)
    bench.command(destroy("flush_tlbs", "free_irqchip"))

    waited = [bench.step(TimerFired(TIMER)) for _ in range(3)]
    bench.reply(acked(1, 1))

    assert waited == [(SetTimer(TIMER, 1000, quiet=True),)] * 3
    assert bench.vm.phase == "freed"


@pytest.mark.parametrize(
    ("steps", "answered", "freed"),
    [
        ((), 0, set()),
        ((loop("unload_mmu"), "flush_tlbs"), 2, set()),
        ((loop("free_vcpu"),), 0, set()),
        ((loop("free_vcpu"),), 1, {0}),
        ((loop("free_vcpu"), "flush_tlbs"), 2, {0, 1}),
        ((loop("free_vcpu", "erase_vcpu", "leave_nested"),), 1, {0}),
        ((loop("unload_mmu", "erase_vcpu", "free_vcpu"),), 1, set()),
        ((loop("unload_mmu", "erase_vcpu", "free_vcpu"),), 2, {0}),
        ((loop("free_vcpu", order="descending"),), 1, {1}),
        ((loop("free_vcpu", parallel="all"),), 1, {0}),
    ],
)
def test_who_is_freed_is_read_off_the_place_of_the_teardown(
    steps: tuple[Any, ...], answered: int, freed: set[int]
) -> None:
    bench = ManagerBench.running(INSIDE)
    effects = bench.command(destroy(*steps, "flush_tlbs", flush_wait="all"))
    commands = commands_in(effects)
    for _ in range(answered):
        effects = bench.reply(done(commands.pop(0)))
        commands += commands_in(effects)

    assert freed_vcpus(bench.vm) == freed


@pytest.mark.parametrize("phase", ["running", "over"])
def test_a_late_flush_timer_does_nothing(phase: str) -> None:
    bench = ManagerBench.running(INSIDE)
    if phase == "over":
        (command, *_) = commands_in(bench.command(destroy(loop("free_vcpu"))))
        bench.reply(done(command))
    before = bench.state

    assert (bench.step(TimerFired(TIMER)), bench.state) == ((), before)

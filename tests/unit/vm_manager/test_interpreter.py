"""The interpreter: which command is sent when, whatever the ordering."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cores import said
from support.manager_bench import (
    QUIET,
    ManagerBench,
    commands_in,
    destroy,
    done,
    loop,
)
from support.orderings import orderings

from vm_manager.interpreter import ERASE, split
from vm_protocol import messages
from vm_protocol.effects import Effect, Observed, Publish
from vm_protocol.messages import DestroyVcpu
from vm_protocol.observations import Event
from vm_protocol.ordering import VCPU_STEPS, Ordering
from vm_protocol.scenario import Scenario


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        (("erase_vcpu",), (ERASE,)),
        (("free_vcpu", "erase_vcpu"), (("free_vcpu",), ERASE)),
        (("erase_vcpu", "erase_vcpu"), (ERASE, ERASE)),
        (
            ("load_vcpu", "unload_mmu", "erase_vcpu", "put_vcpu", "free_vcpu"),
            (("load_vcpu", "unload_mmu"), ERASE, ("put_vcpu", "free_vcpu")),
        ),
    ],
)
def test_neighbouring_worker_steps_are_one_part_and_an_erase_is_its_own(
    steps: tuple[str, ...], parts: tuple[tuple[str, ...], ...]
) -> None:
    assert split(steps) == parts


@given(steps=st.lists(st.sampled_from(VCPU_STEPS), max_size=12).map(tuple))
def test_the_parts_together_are_the_steps_and_no_two_commands_are_neighbours(
    steps: tuple[str, ...],
) -> None:
    parts = split(steps)

    assert sum(parts, ()) == steps
    assert all(ERASE in pair for pair in pairwise(parts))
    assert all(part == ERASE or "erase_vcpu" not in part for part in parts)


class Driven:
    """A teardown whose commands the test answers in an order of its choice."""

    def __init__(self, scenario: Scenario, teardown: messages.DestroyVm, seed: int = 0) -> None:
        self.bench = ManagerBench.running(scenario)
        self.random = random.Random(seed)
        self.open: list[DestroyVcpu] = []
        self.sent: list[DestroyVcpu] = []
        self.effects: list[Effect] = []
        self.most_open = 0
        self._take(self.bench.command(teardown))

    def _take(self, effects: tuple[Effect, ...]) -> None:
        self.effects += effects
        self.open += commands_in(effects)
        self.sent += commands_in(effects)
        self.most_open = max(self.most_open, len(self.open))

    def finish(self, outcome: str = "done") -> None:
        while self.open:
            command = self.open.pop(self.random.randrange(len(self.open)))
            self._take(self.bench.reply(done(command, outcome)))

    def order(self) -> list[int]:
        return [command.vcpu for command in self.sent]


@pytest.mark.parametrize(
    ("order", "expected"), [("ascending", [0, 1, 2]), ("descending", [2, 1, 0])]
)
def test_a_loop_goes_up_or_down_one_vcpu_at_a_time(order: str, expected: list[int]) -> None:
    driven = Driven(Scenario(vcpus=3, ticker=False), destroy(loop("free_vcpu", order=order)))

    driven.finish()

    assert driven.order() == expected
    assert driven.most_open == 1


@pytest.mark.parametrize("parallel", [1, 2, 3, 4, 9, "all"])
def test_a_parallel_loop_has_as_many_in_flight_as_it_may_and_never_more(
    parallel: int | str,
) -> None:
    teardown = destroy(loop("unload_mmu", "erase_vcpu", "free_vcpu", parallel=parallel))
    for seed in range(5):
        driven = Driven(Scenario(vcpus=4, ticker=False), teardown, seed)
        driven.finish()
        assert driven.most_open == (4 if parallel == "all" else min(4, int(parallel)))
        assert sorted(driven.order()) == [0, 0, 1, 1, 2, 2, 3, 3]
        assert driven.bench.vm.phase == "freed"


def test_a_command_says_its_place_its_steps_and_the_newest_generation_of_its_mailbox() -> None:
    driven = Driven(
        QUIET,
        destroy("flush_tlbs", loop("erase_vcpu", "clear_async_pf", "free_vcpu"), fence=False),
    )

    (publish,) = [
        effect
        for effect in driven.effects
        if isinstance(effect, Publish) and isinstance(effect.message, DestroyVcpu)
    ]
    assert publish == Publish(
        "commands",
        "worker.w.commands",
        DestroyVcpu(
            vm="vm-0",
            vcpu=0,
            step="1.1",
            steps=("clear_async_pf", "free_vcpu"),
            generation=1,
            fence=False,
        ),
        mandatory=True,
        reply_to="manager.replies",
    )


def test_a_second_loop_goes_over_erased_vcpus_as_well() -> None:
    driven = Driven(QUIET, destroy(loop("erase_vcpu"), loop("free_vcpu")))

    driven.finish()

    assert [(command.vcpu, command.step) for command in driven.sent] == [(0, "1.0"), (1, "1.0")]
    assert driven.bench.vm.visible() == ()


def test_a_loop_of_erases_only_sends_nothing_and_waits_for_nothing() -> None:
    driven = Driven(QUIET, destroy(loop("erase_vcpu", "erase_vcpu")))

    assert driven.sent == []
    assert driven.bench.vm.phase == "freed"


def test_a_later_step_waits_for_the_slowest_body_of_the_loop_before_it() -> None:
    driven = Driven(QUIET, destroy(loop("free_vcpu", parallel="all"), "free_irqchip"))
    first, second = driven.sent

    driven.bench.reply(done(second))
    early = driven.bench.vm.freed_state
    driven.bench.reply(done(first))

    assert early == frozenset()
    assert driven.bench.vm.freed_state == {"irqchip"}


def test_a_refused_command_does_not_stop_the_teardown() -> None:
    driven = Driven(QUIET, destroy(loop("free_vcpu", "free_vcpu")))

    driven.finish("refused")

    assert driven.bench.vm.phase == "freed"


def test_steps_of_the_manager_are_said_at_their_places() -> None:
    driven = Driven(QUIET, destroy("free_irqchip", loop("erase_vcpu"), "uninit_mmu"))

    started = [
        (effect.step, effect.vcpu)
        for effect in driven.effects
        if isinstance(effect, Observed) and effect.event == Event.STEP_STARTED
    ]
    assert started == [("0", None), ("1.0", 0), ("1.0", 1), ("2", None)]
    names = [each["name"] for each in said(driven.effects, Event.STEP_FINISHED)]
    assert names == ["free_irqchip", "erase_vcpu", "erase_vcpu", "uninit_mmu"]


@given(ordering=orderings(racy=True), vcpus=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_any_ordering_ends_with_every_step_done_for_every_vcpu_once(
    ordering: Ordering, vcpus: int, seed: int
) -> None:
    teardown = messages.DestroyVm(vm="vm-0", ordering=ordering)
    driven = Driven(Scenario(vcpus=vcpus, ticker=False), teardown, seed)

    driven.finish()

    assert driven.bench.vm.phase == "freed"
    assert len(driven.sent) == len(set(driven.sent))
    wanted = sorted(
        (f"{position}.{number}", vcpu, part)
        for position, step in enumerate(ordering.steps)
        if not isinstance(step, str)
        for number, part in enumerate(split(step.for_each_vcpu.steps))
        if part != ERASE
        for vcpu in range(vcpus)
    )
    assert sorted((each.step, each.vcpu, each.steps) for each in driven.sent) == wanted

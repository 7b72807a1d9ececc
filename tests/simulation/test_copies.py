"""A copy of any message, delivered at any later point, changes no verdict and no count.

At-least-once brings copies late: after a free, after a zap, after the answer. Every message of a
first-in-first-out run is copied in turn, and its copy delivered at later points in turn, until the
client knows that the VM is gone and has it removed.
"""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from support.exploring import loop, ordering, shipped

from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.schedule import Schedule, Turn
from teardown_lab.explorer.stage import Stage
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.spread, pytest.mark.slow]

SEED = 20_260_815
LATER_POINTS = 3
"""Of the points after each delivery, so many are drawn, the last one always among them."""

CASES: dict[str, tuple[Ordering, Scenario]] = {
    "reads of state that is freed later": (
        shipped("unload-in-destroy"),
        Scenario(vcpus=2, ticker=False, nested=(0, 1)),
    ),
    "reads before and after the free of what they read": (
        shipped("vm-state-before-vcpus"),
        Scenario(vcpus=2, ticker=False, nested=(0,), avic=True),
    ),
    "faults that complete late": (
        shipped("async-pf-not-cleared"),
        Scenario(vcpus=2, ticker=False, async_pf=1),
    ),
    "guests that leave, and are waited for": (
        shipped("unload-in-destroy"),
        Scenario(vcpus=2, ticker=False, in_guest=(0, 1), mmu="tdp", nested=(0,)),
    ),
    "zaps of 2007": (shipped("unload-all-first"), Scenario(vcpus=2, ticker=False)),
    "zaps of 2007 under TDP, with cached roots": (
        ordering(
            "stop_background_workers",
            loop("zap_all_until_empty"),
            loop("unload_mmu", "free_vcpu", "erase_vcpu"),
            "free_irqchip",
            "vendor_vm_destroy",
        ),
        Scenario(vcpus=1, ticker=False, mmu="tdp", previous_roots=1),
    ),
    "requests to the dead": (
        shipped("unload-in-destroy-wipe-last"),
        Scenario(vcpus=2, ticker=False),
    ),
    "a command that is done, while a later one waits": (
        ordering(
            loop("put_vcpu", "leave_nested"),
            loop("load_vcpu", "put_vcpu", "unload_mmu", "free_vcpu", "erase_vcpu"),
        ),
        Scenario(vcpus=2, ticker=False, mmu="tdp", previous_roots=1),
    ),
    "a flush that waits for all": (
        shipped("unload-in-destroy", flush_wait="all"),
        Scenario(vcpus=2, ticker=False),
    ),
}


def essence(stage: Stage) -> dict[str, Any]:
    judgement = stage.judgement()
    return {
        "verdict": judgement.verdict,
        "counts": judgement.counts,
        "notes": judgement.notes,
        "violations": sorted(
            (each.invariant, each.vcpu or 0, each.message_id or "") for each in judgement.violations
        ),
    }


def forward(stage: Stage, until: int) -> None:
    """Deliver the oldest, the copy aside, until so many deliveries are done, or none is left."""
    copies = {id(each) for each in stage._floating}
    while len(stage.trace) < until:
        parcel = stage.oldest(lambda each: id(each) in copies)
        if parcel is None:
            return
        stage.deliver(parcel)


def with_a_copy(begin: Schedule, first: int, later: int) -> Stage:
    """Return a run in which the delivery number `first` is copied, and its copy comes `later`."""
    stage = Stage(begin)
    forward(stage, first)
    parcel = stage.oldest()
    assert parcel is not None, "the run is as long as the one without a copy"
    stage.take(Turn("copy", parcel.key))
    forward(stage, later)
    stage.take(Turn("release", parcel.key))
    stage.finish()
    return stage


def points(length: int) -> Iterator[tuple[int, int]]:
    print(f"seed {SEED}")
    chosen = random.Random(SEED)
    for first in range(length):
        after = range(first + 1, length)
        yield from ((first, later) for later in chosen.sample(after, min(len(after), LATER_POINTS)))
        yield first, length


@pytest.mark.parametrize("name", CASES)
def test_a_late_copy_of_any_message_changes_nothing(name: str) -> None:
    order, scenario = CASES[name]
    begin = Schedule(order, scenario, Budget(), ())
    once = Stage(begin)
    once.finish()
    plain, expected = once.trace, essence(once)
    living = plain.index("vm-destroyed")

    differing = [
        (plain[first], plain[later - 1])
        for first, later in points(living)
        if essence(with_a_copy(begin, first, later)) != expected
    ]

    assert differing == []


def test_a_copy_that_spins_until_the_vm_is_removed_is_blamed_on_nobody() -> None:
    """The manager forgot the VM because it was told to: it was not restarted."""
    order = ordering(loop("zap_all_until_empty", "free_vcpu"))
    begin = Schedule(order, Scenario(vcpus=2, ticker=False, mmu="tdp"), Budget(), ())
    once = Stage(begin)
    once.finish()
    command = next(at for at, key in enumerate(once.trace) if key.startswith("destroy-vcpu/"))

    stage = with_a_copy(begin, command, once.trace.index("vm-destroyed"))

    judgement = stage.judgement()
    assert judgement.notes == ()

"""One suite, two drivers: orderings that forget the guest, its memory, or the VM's own state."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.exploring import loop, ordering
from support.runs import broken, tear_down

from teardown_lab.experiment.lab import Lab
from vm_manager.catalogue import read_ordering
from vm_protocol.ordering import Ordering

CASES = Path(__file__).parents[1] / "cases" / "orderings"
WORKERS = {"vm-state-used-after-free": 1}
STATE = {"leak": 2}


def case(name: str, **changes: Any) -> Ordering:
    path = CASES / f"{name}.yaml"
    return read_ordering(path.read_text(), str(path)).ordering.model_copy(update=changes)


@dataclass(frozen=True)
class Run:
    """An ordering, what the VM looks like, and how often each invariant must be broken."""

    order: Ordering
    broken: dict[str, int]
    shape: dict[str, Any] = field(default_factory=dict)


def tdp(**shape: Any) -> dict[str, Any]:
    return {"mmu": "tdp", **shape}


MEMORY_FIRST = case("memory-first")
NEVER_STOPPED = case("workers-never-stopped")
NO_ZAP = case("no-zap")
NEVER_FREED = case("state-never-freed")
MACHINE_FIRST = case("machine-first")
DEAD_GUEST = case("freed-in-its-guest")
FREED_AGAIN = ordering(
    "stop_background_workers",
    "zap_all_roots",
    "free_irqchip",
    loop("unload_mmu", "free_vcpu", "erase_vcpu"),
    "free_irqchip",
    "vendor_vm_destroy",
    "free_irqchip",
    "vendor_vm_destroy",
)
ZAP_WITHOUT_SCAN = ordering(
    "zap_all_roots",
    loop("unload_mmu", "free_vcpu", "erase_vcpu"),
    "free_irqchip",
    "uninit_mmu",
    "vendor_vm_destroy",
    "stop_background_workers",
)

RUNS = {
    "memory goes under a guest": Run(MEMORY_FIRST, {"stale-tlb": 1}, tdp(vcpus=2, in_guest=(1,))),
    "one page under two guests": Run(
        MEMORY_FIRST, {"stale-tlb": 2}, tdp(vcpus=3, in_guest=(0, 2), roots="shared")
    ),
    "every cached root's page": Run(
        MEMORY_FIRST, {"stale-tlb": 2}, tdp(vcpus=2, in_guest=(1,), previous_roots=1)
    ),
    "a shadow root's flush is waited for": Run(MEMORY_FIRST, {}, {"vcpus": 2, "in_guest": (1,)}),
    "so is that of a nested vCPU's root, for all TDP pages": Run(
        MEMORY_FIRST,
        {},
        tdp(vcpus=2, in_guest=(0, 1), nested=(0,)),
    ),
    "nobody stops the workers": Run(NEVER_STOPPED, WORKERS, {"vcpus": 2}),
    "nor where there is no ticker: the PIT is always there": Run(
        NEVER_STOPPED, WORKERS, {"vcpus": 2, "ticker": False}
    ),
    "and a guest that no request reaches": Run(
        NEVER_STOPPED,
        {**WORKERS, "stale-tlb": 1, "freed-while-running": 1},
        tdp(vcpus=2, in_guest=(0,), ticker=False),
    ),
    "without a zap, under TDP": Run(NO_ZAP, {"memory-mapped": 3}, tdp(vcpus=3)),
    "without a zap, one root": Run(NO_ZAP, {"memory-mapped": 1}, tdp(vcpus=3, roots="shared")),
    "without a zap, shadow roots": Run(NO_ZAP, {"memory-mapped": 2, "leak": 2}, {"vcpus": 2}),
    "without a zap, with a nested vCPU": Run(
        NO_ZAP, {"memory-mapped": 3, "leak": 1}, tdp(vcpus=2, nested=(1,))
    ),
    "state that nobody frees": Run(NEVER_FREED, STATE, {"vcpus": 2}),
    "state that is freed again": Run(FREED_AGAIN, {"double-free": 3}, {"vcpus": 2}),
    "the machine goes before its vCPUs": Run(MACHINE_FIRST, {"pinned-root-freed": 2}, {"vcpus": 2}),
    "and one of them is in a nested guest": Run(
        MACHINE_FIRST,
        {"pinned-root-freed": 2, "vm-state-used-after-free": 1},
        {"vcpus": 2, "nested": (0,)},
    ),
    "a flush after a free in its guest": Run(
        DEAD_GUEST,
        {"use-after-free": 1, "freed-while-running": 1, **STATE, **WORKERS},
        {"vcpus": 1, "in_guest": (0,), "ticker": False},
    ),
    "a flush to one that was freed in its guest and one that was not": Run(
        DEAD_GUEST,
        {"use-after-free": 2, "freed-while-running": 1, **STATE, **WORKERS},
        {"vcpus": 2, "in_guest": (1,), "ticker": False},
    ),
    "waiting for the dead": Run(
        case("freed-in-its-guest", flush_wait="all"),
        {"use-after-free": 1, "freed-while-running": 1, "stuck": 1},
        {"vcpus": 1, "in_guest": (0,), "ticker": False},
    ),
    "a zap without a scan before it": Run(
        ZAP_WITHOUT_SCAN,
        {"stale-tlb": 2, "freed-while-running": 2},
        tdp(vcpus=2, in_guest=(0, 1), ticker=False),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_an_ordering_forgets_is_found(name: str, lab: Lab, workdir: Path) -> None:
    run = RUNS[name]

    judgement, _ = tear_down(lab, run.order, workdir, **run.shape)

    assert broken(judgement) == run.broken
    assert judgement.notes == ()
    assert str(judgement.verdict) == ("violated" if broken(judgement) else "safe")


@pytest.mark.parametrize("mmu", ["shadow", "tdp"])
def test_no_count_tells_that_memory_went_back(mmu: str, lab: Lab, workdir: Path) -> None:
    """A TDP zap posts nothing and flushes nobody, however much it unmaps."""
    judgement, records = tear_down(lab, MEMORY_FIRST, workdir, mmu=mmu, ticker=False)

    zapped = [each.details["root"] for each in records if each.event == "page.freed"]
    assert sorted(zapped) == [f"root-{vcpu}" for vcpu in range(4)]
    assert judgement.counts.flush_broadcasts == (0 if mmu == "tdp" else 5)

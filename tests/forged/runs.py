"""The real runs that are forged: several orderings, safe and violated, one for each finding."""

from functools import cache

from support import simulated

from vm_manager.catalogue import catalogue_entry
from vm_protocol.observations import Event
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record


def _own(*steps: object) -> Ordering:
    tail = ("free_irqchip", "uninit_mmu", "vendor_vm_destroy")
    return Ordering.model_validate({"name": "own", "steps": (*steps, *tail)})


def _loop(*steps: str) -> dict[str, object]:
    return {"for_each_vcpu": {"steps": steps}}


START = ("stop_background_workers", "zap_all_roots")
QUIET = {"vcpus": 2, "ticker": False}

SAFE: dict[str, tuple[str | Ordering, dict[str, object]]] = {
    "the patch": ("unload-in-destroy", {**QUIET, "previous_roots": 1}),
    "all unloaded first": (
        "unload-all-first-erase-each",
        {"vcpus": 2, "avic": True, "async_pf": 1, "nested": (1,)},
    ),
    "in guest, one root": (
        "unload-in-destroy",
        {"vcpus": 2, "in_guest": (0, 1), "roots": "shared"},
    ),
    "TDP, nested": ("unload-in-destroy", {"vcpus": 2, "mmu": "tdp", "nested": (0,)}),
    "hidden first": ("fenced-parallel-destroy", {**QUIET, "roots": "mixed"}),
    "of 2007": ("unload-all-first", {"vcpus": 2}),
}

VIOLATED: dict[str, tuple[str | Ordering, dict[str, object]]] = {
    "use-after-free": ("unload-in-destroy-wipe-last", QUIET),
    "lost-request": ("unload-in-destroy-stop-at-hole", {"vcpus": 3, "ticker": False}),
    "late completion": ("async-pf-not-cleared", {"vcpus": 1, "async_pf": 1}),
    "freed state": ("vm-state-before-vcpus", {**QUIET, "nested": (0,)}),
    "stuck": ("zap-all-per-vcpu", QUIET),
    "double-free": (
        _own(*START, _loop("unload_mmu", "free_vcpu", "free_vcpu", "erase_vcpu")),
        {"vcpus": 1},
    ),
    "pinned-root-freed": (_own(*START, _loop("free_vcpu", "erase_vcpu")), QUIET),
    "leak": (_own(START[0], _loop("unload_mmu", "free_vcpu", "erase_vcpu")), QUIET),
    "stale-tlb": (
        _own(_loop("erase_vcpu"), *START, _loop("unload_mmu", "free_vcpu")),
        {"vcpus": 1, "ticker": False, "in_guest": (0,)},
    ),
}


@cache
def records_of(name: str) -> tuple[Record, ...]:
    """Return the history of a run, as a lab writes it whose services served nobody else."""
    ordering, shape = (SAFE | VIOLATED)[name]
    if isinstance(ordering, str):
        ordering = catalogue_entry(ordering).ordering
    run = simulated.run(ordering, Scenario.model_validate(shape))
    assert run.state.phase == "done"
    return tuple(
        record.model_copy(update={"details": {**record.details, "whole": True}})
        if record.event is Event.RUN_STARTED
        else record
        for record in run.records
    )

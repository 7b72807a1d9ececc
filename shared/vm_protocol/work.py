"""What an ordering costs a VM, in messages, before any of them is sent; pure.

A message of 808 bytes may ask for forty zaps of 128 roots on 128 vCPUs each: 655,360 deliveries.
So the manager counts first, and refuses what is far beyond any real teardown of a VM of that shape.
The count is an upper bound: vCPUs that a loop erases count as visible until the loop ends.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from vm_protocol import limits
from vm_protocol.ordering import ForEachVcpu, Loop, Ordering
from vm_protocol.scenario import SHADOW, Scenario, root_contexts


@dataclass(frozen=True, slots=True)
class StepWork:
    """What one step of an ordering costs: its index, its name, its messages."""

    index: int
    name: str
    messages: int


@dataclass(frozen=True, slots=True)
class Excess:
    """An ordering that costs too much: the step that costs most, the sum, what is allowed."""

    worst: StepWork
    total: int
    allowed: int
    vcpus: int

    def __str__(self) -> str:
        return (
            f"`{self.worst.name}` (step {self.worst.index + 1}) makes "
            f"{self.worst.messages:,} messages, the whole ordering {self.total:,}; with "
            f"{self.vcpus} vCPUs {self.allowed:,} are allowed: take out steps that repeat others, "
            "or use fewer vCPUs, or roots that are shared"
        )


@dataclass(frozen=True, slots=True)
class _Shape:
    """A VM on its way through an ordering, as far as it decides what a step costs.

    `roots` are shadow roots that are listed, `pinned` those of them that have pins; `zapped` tells
    that their last pins raise flushes.
    """

    vcpus: int
    visible: int
    roots: int
    pinned: int
    faults: int
    zapped: bool = False
    background: bool = True


def too_much(ordering: Ordering, scenario: Scenario) -> Excess | None:
    """Return why an ordering is not to run on a VM of this shape; None: it may."""
    steps = steps_of(ordering, scenario)
    total = sum(step.messages for step in steps)
    allowed = allowed_for(scenario)
    if total <= allowed:
        return None
    return Excess(max(steps, key=lambda step: step.messages), total, allowed, scenario.vcpus)


def allowed_for(scenario: Scenario) -> int:
    """Return how many messages a teardown of a VM may cost.

    WORK_FACTOR times what the kernel's own costs at most: a request for each root and a flush for
    each vCPU, to all vCPUs.
    """
    vcpus = scenario.vcpus
    once = vcpus * (_shadow_root_count(scenario) + vcpus)
    # A small VM may repeat itself as often as it likes: what it costs is small all the same.
    return max(limits.WORK_MIN, limits.WORK_FACTOR * once)


def steps_of(ordering: Ordering, scenario: Scenario) -> tuple[StepWork, ...]:
    """Return what each step costs on a VM of this shape."""
    roots = _shadow_root_count(scenario)
    shape = _Shape(scenario.vcpus, scenario.vcpus, roots, roots, scenario.async_pf)
    costs: list[StepWork] = []
    for index, step in enumerate(ordering.steps):
        if isinstance(step, ForEachVcpu):
            shape, cost = _loop(shape, step.for_each_vcpu)
            costs.append(StepWork(index, "for_each_vcpu", cost))
        else:
            shape, cost = _VM_STEPS[step](shape)
            costs.append(StepWork(index, step, cost))
    return tuple(costs)


def _shadow_root_count(scenario: Scenario) -> int:
    found: set[str] = set()
    for vcpu in range(scenario.vcpus):
        for context in root_contexts(scenario, vcpu):
            found.update(name for name, mmu in context if mmu == SHADOW)
    return len(found)


# --- steps of the VM ------------------------------------------------------------------------


Cost = tuple[_Shape, int]


def _stop_background_workers(shape: _Shape) -> Cost:
    cost = shape.visible if shape.background else 0
    return replace(shape, background=False), cost


def _zap_all_roots(shape: _Shape) -> Cost:
    if not shape.roots:
        return shape, 0
    after = replace(shape, roots=shape.pinned, zapped=True)
    return after, (shape.pinned + 1) * shape.visible


def _flush_tlbs(shape: _Shape) -> Cost:
    return shape, shape.visible


def _uninit_mmu(shape: _Shape) -> Cost:
    return replace(shape, roots=shape.roots - shape.pinned, pinned=0), 0


def _free_state(shape: _Shape) -> Cost:
    return shape, 0


_VM_STEPS: Final[dict[str, Callable[[_Shape], Cost]]] = {
    "stop_background_workers": _stop_background_workers,
    "zap_all_roots": _zap_all_roots,
    "flush_tlbs": _flush_tlbs,
    "uninit_mmu": _uninit_mmu,
    "free_irqchip": _free_state,
    "vendor_vm_destroy": _free_state,
}

# --- loops ----------------------------------------------------------------------------------


def _loop(shape: _Shape, loop: Loop) -> Cost:
    cost = 0
    for step in loop.steps:
        shape, more = _vcpu_step(shape, step)
        cost += more
    if "erase_vcpu" in loop.steps:
        shape = replace(shape, visible=0)
    return shape, cost


def _vcpu_step(shape: _Shape, step: str) -> Cost:
    """Return what a step costs that every vCPU takes, its command and its answer included."""
    vcpus = shape.vcpus
    told = 2 * vcpus
    match step:
        case "erase_vcpu":
            return shape, 0
        case "unload_mmu":
            flushes = min(vcpus, shape.pinned) if shape.zapped else 0
            left = shape.roots - shape.pinned if shape.zapped else shape.roots
            return replace(shape, roots=left, pinned=0), 2 * told + flushes * shape.visible
        case "zap_all_until_empty":
            tries = 2 * (limits.DELIVERY_LIMIT + 1)
            return replace(shape, roots=0, pinned=0), told + tries * vcpus
        case "free_vcpu":
            return replace(shape, faults=0), told + (1 + shape.faults) * vcpus
        case _:
            return shape, told + 2 * vcpus

"""The table of MMU roots and their pins; pure. KVM: `kvm->arch.active_mmu_pages`, `root_count`.

The manager's single thread is `mmu_lock`. What a flush costs, and who gets it, stands in
`requests`; this file decides only which roots a release dooms.
"""

from dataclasses import dataclass, replace

from vm_protocol.effects import Effect, observed
from vm_protocol.observations import Event
from vm_protocol.scenario import SHADOW, Mmu, Scenario, root_contexts


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """A slot of a vCPU that holds a root: MMU context 0 or 1, slot 0 = current, 1.. = previous."""

    vcpu: int
    context: int
    slot: int

    def __str__(self) -> str:
        return f"{self.vcpu}.{self.context}.{self.slot}"


@dataclass(frozen=True, slots=True)
class Root:
    """A root page; an invalid one is freed, and flushed for, as its last pin goes."""

    name: str
    mmu: Mmu
    pins: tuple[Pin, ...]
    invalid: bool = False


RootList = tuple[Root, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """Roots after pins were dropped: those that stay, and doomed ones, to be flushed and freed."""

    roots: RootList
    doomed: RootList
    effects: tuple[Effect, ...]


def allocate(vm: str, scenario: Scenario) -> tuple[RootList, tuple[Effect, ...]]:
    """Return the roots that the VM's vCPUs pin as its teardown begins."""
    pins: dict[tuple[str, Mmu], list[Pin]] = {}
    for vcpu in range(scenario.vcpus):
        for context, held in enumerate(root_contexts(scenario, vcpu)):
            for slot, held_root in enumerate(held):
                pins.setdefault(held_root, []).append(Pin(vcpu, context, slot))
    roots = tuple(Root(name, mmu, tuple(holders)) for (name, mmu), holders in pins.items())
    effects: list[Effect] = []
    for root in roots:
        effects.append(observed(Event.ROOT_ALLOCATED, vm, root=root.name, mmu=root.mmu))
        effects += [_pin_event(Event.ROOT_PINNED, vm, root, pin) for pin in root.pins]
    return roots, tuple(effects)


def _pin_event(event: Event, vm: str, root: Root, pin: Pin) -> Effect:
    return observed(event, vm, pin.vcpu, root=root.name, context=pin.context, slot=pin.slot)


def freed(vm: str, root: Root, by: str) -> Effect:
    """Return the observation that a root is freed, with the pins that are left on it."""
    pins = tuple(str(pin) for pin in root.pins)
    return observed(Event.ROOT_FREED, vm, root=root.name, by=by, pins=pins)


def release(vm: str, roots: RootList, vcpu: int, context: int, names: tuple[str, ...]) -> Released:
    """Drop a vCPU's pins on the named roots of one MMU context (kvm_mmu_free_roots).

    A root is doomed if this drops its last pin and it is an invalid shadow root. A valid root
    without pins stays cached; a TDP root never causes a flush.
    """
    kept: list[Root] = []
    doomed: list[Root] = []
    effects: list[Effect] = []
    for root in roots:
        dropped = tuple(
            pin
            for pin in root.pins
            if root.name in names and (pin.vcpu, pin.context) == (vcpu, context)
        )
        effects += [_pin_event(Event.ROOT_UNPINNED, vm, root, pin) for pin in dropped]
        left = replace(root, pins=tuple(pin for pin in root.pins if pin not in dropped))
        last = bool(dropped) and not left.pins
        (doomed if last and root.invalid and root.mmu == SHADOW else kept).append(left)
    return Released(tuple(kept), tuple(doomed), tuple(effects))


def zap_unpinned(vm: str, roots: RootList, by: str) -> tuple[RootList, tuple[Effect, ...]]:
    """Free every root without pins, of either kind."""
    kept = tuple(root for root in roots if root.pins)
    return kept, tuple(freed(vm, root, by) for root in roots if not root.pins)


def uninit(vm: str, roots: RootList) -> tuple[RootList, tuple[Effect, ...]]:
    """Free pinned roots under their holders and unpinned TDP roots (kvm_mmu_uninit_vm).

    Unpinned shadow roots stay: only a zap would have freed them.
    """
    kept = tuple(root for root in roots if root.mmu == SHADOW and not root.pins)
    gone = [root for root in roots if root not in kept]
    return kept, tuple(freed(vm, root, "uninit") for root in gone)

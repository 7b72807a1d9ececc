"""What each VM-level step and `erase_vcpu` do, as small functions in one table; pure."""

from collections.abc import Callable
from dataclasses import replace

from vm_manager import flush_waits, memory, requests, roots
from vm_manager.vm import FlushWait, Slot, Vm, VmStepped
from vm_protocol.effects import CancelTimer, Effect, Unbind, observed
from vm_protocol.observations import Event
from vm_protocol.scenario import SHADOW
from vm_protocol.timers import TimerKind

VmStepFunction = Callable[[Vm], VmStepped]


def stop_background_workers(vm: Vm) -> VmStepped:
    """Stop the ticker and free the PIT, which posts scan-IOAPIC (kvm_arch_pre_destroy_vm).

    KVM_REQ_SCAN_IOAPIC has KVM_REQUEST_WAIT: whoever is in its guest has left it afterwards.
    """
    if not vm.background:
        return vm, ()
    stopped = replace(vm, background=False)
    posted, effects, missing = requests.scan_ioapic(stopped)
    said = observed(Event.BACKGROUND_STOPPED, vm.name)
    vm, waited = flush_waits.wait(posted, FlushWait(missing))
    return vm, (CancelTimer(TimerKind.TICK.of(vm.name)), said, *effects, *waited)


def zap_all_roots(vm: Vm) -> VmStepped:
    """Unmap the guest's memory; shadow roots become invalid or are freed (kvm_mmu_zap_all).

    Shadow roots first: one drop-obsolete-roots request for each pinned root, then one flush; none
    of it when no shadow root is listed. The requests are posted, not served: no pin goes. Then
    TDP roots, without request or flush (kvm_tdp_mmu_zap_all). Each page that was mapped goes back
    to its owner once the flush is over.
    """
    listed = [root.name for root in vm.roots]
    vm, effects, missing = _zap_shadow(vm)
    left, pages = memory.give_back(vm.pages, listed)
    vm, waited = flush_waits.wait(replace(vm, pages=left), FlushWait(missing, pages))
    return vm, (*effects, *waited)


def _zap_shadow(vm: Vm) -> requests.Posted:
    listed = [root for root in vm.roots if root.mmu == SHADOW]
    if not listed:
        return vm, (), frozenset()
    effects: list[Effect] = []
    for root in listed:
        if not root.pins:
            continue
        if not root.invalid:
            effects.append(observed(Event.ROOT_INVALIDATED, vm.name, root=root.name))
        vm, posted, _ = requests.drop_obsolete_roots(vm, root.name)
        effects += posted
    vm, flushed, missing = requests.flush_tlb(vm, "zap-all")
    effects += flushed
    effects += [roots.freed(vm.name, root, "zap-all") for root in listed if not root.pins]
    left = tuple(
        replace(root, invalid=True) if root.mmu == SHADOW else root
        for root in vm.roots
        if root.pins or root.mmu != SHADOW
    )
    return replace(vm, roots=left), tuple(effects), missing


def flush_tlbs(vm: Vm) -> VmStepped:
    """Flush the TLBs of all visible vCPUs (kvm_flush_remote_tlbs)."""
    vm, effects, missing = requests.flush_tlb(vm, "flush-tlbs")
    vm, waited = flush_waits.wait(vm, FlushWait(missing))
    return vm, (*effects, *waited)


def free_irqchip(vm: Vm) -> VmStepped:
    """Free MSR filter, PIC and IOAPIC, which a nested vCPU reads as it leaves its guest."""
    return _free_state(vm, "irqchip")


def vendor_vm_destroy(vm: Vm) -> VmStepped:
    """Free the vendor's state, AVIC's physical id table included (svm_vm_destroy)."""
    return _free_state(vm, "vendor")


def _free_state(vm: Vm, state: str) -> VmStepped:
    said = observed(Event.VM_STATE_FREED, vm.name, state=state)
    return replace(vm, freed_state=vm.freed_state | {state}), (said,)


def uninit_mmu(vm: Vm) -> VmStepped:
    """Free what is left of the MMU (kvm_mmu_uninit_vm)."""
    left, effects = roots.uninit(vm.name, vm.roots)
    return replace(vm, roots=left), effects


VM_STEP_FUNCTIONS: dict[str, VmStepFunction] = {
    "stop_background_workers": stop_background_workers,
    "zap_all_roots": zap_all_roots,
    "flush_tlbs": flush_tlbs,
    "free_irqchip": free_irqchip,
    "vendor_vm_destroy": vendor_vm_destroy,
    "uninit_mmu": uninit_mmu,
}


def erase_vcpu(vm: Vm, vcpu: int) -> VmStepped:
    """Take a vCPU out of the array (xa_erase); with `stop-at-hole`, hide all behind it as well."""
    assert vm.teardown is not None, "only a teardown erases"
    slot = vm.slots[vcpu]
    if not slot.present:
        return vm, ()
    effects: list[Effect] = []
    # A vCPU behind a hole is present, but was unbound when the hole was made.
    if slot.bound:
        effects.append(Unbind(vm.mailbox(vcpu)))
    vm = vm.with_slot(vcpu, replace(slot, present=False, bound=False))
    effects.append(observed(Event.VCPU_ERASED, vm.name, vcpu))
    if vm.teardown is not None and vm.teardown.ordering.array == "stop-at-hole":
        vm, hidden = _hide_behind(vm, vcpu)
        effects += hidden
    return vm, tuple(effects)


def _hide_behind(vm: Vm, hole: int) -> VmStepped:
    effects: list[Effect] = []
    slots: list[Slot] = list(vm.slots)
    for vcpu in range(hole + 1, len(slots)):
        if slots[vcpu].bound:
            slots[vcpu] = replace(slots[vcpu], bound=False)
            effects.append(Unbind(vm.mailbox(vcpu)))
            effects.append(observed(Event.VCPU_HIDDEN, vm.name, vcpu, hole=hole))
    return replace(vm, slots=tuple(slots)), tuple(effects)

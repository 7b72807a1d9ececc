"""VM-wide requests: one publish with a generation and its expected recipients; pure.

KVM: `kvm_make_all_cpus_request()`. A request is posted, never waited for here: during teardown
every vCPU is outside its guest. One that reaches nobody is not published and counts nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from vm_manager.vm import Vm
from vm_protocol import messages, topology
from vm_protocol.effects import Effect, Observed, Publish, observed
from vm_protocol.observations import Event

Posted = tuple[Vm, tuple[Effect, ...]]
MakeRequest = Callable[..., messages.Request]


def post(vm: Vm, make: MakeRequest, kind: str, by: str, vcpu: int | None = None) -> Posted:
    """Post a request to all visible vCPUs; `vcpu` is the one whose unload raised it, if any."""
    recipients = vm.visible()
    if not recipients:
        nobody = observed(
            Event.REQUEST_POSTED, vm.name, vcpu, kind=kind, by=by, generation=0, recipients=()
        )
        return vm, (nobody,)
    generation = vm.generation + 1
    message = make(
        vm=vm.name, incarnation=vm.incarnation, generation=generation, recipients=recipients
    )
    slots = tuple(replace(slot, routed=generation) if slot.bound else slot for slot in vm.slots)
    said = Observed(
        Event.REQUEST_POSTED,
        vm.name,
        vcpu,
        message_id=message.identity(),
        details=(
            ("kind", kind),
            ("by", by),
            ("generation", generation),
            ("recipients", recipients),
        ),
    )
    publish = Publish(topology.REQUESTS.name, vm.name, message, mandatory=True)
    return replace(vm, generation=generation, slots=slots), (said, publish)


def flush_tlb(vm: Vm, by: str, vcpu: int | None = None) -> Posted:
    """Post a TLB flush (kvm_flush_remote_tlbs)."""
    return post(vm, messages.TlbFlush, "tlb-flush", by, vcpu)


def drop_obsolete_roots(vm: Vm, root: str) -> Posted:
    """Post that an invalid root be dropped (KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)."""
    make = partial(messages.DropObsoleteRoots, root=root)
    return post(vm, make, "drop-obsolete-roots", "zap-all")


def scan_ioapic(vm: Vm) -> Posted:
    """Post an IOAPIC scan, as kvm_free_pit does."""
    return post(vm, messages.ScanIoapic, "scan-ioapic", "pit")


def clock_update(vm: Vm) -> Posted:
    """Post a clock update, as the kvmclock work does."""
    return post(vm, messages.ClockUpdate, "clock-update", "ticker")

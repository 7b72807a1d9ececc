"""VM-wide requests: one publish with a generation and its expected recipients; pure.

KVM: `kvm_make_all_cpus_request()`. A request is posted, not served: during teardown no vCPU enters
its guest again. Who waits for a flush stands in `flush_waits`. A request that reaches nobody is not
published and counts nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from vm_manager.vm import Missing, Vm
from vm_protocol import messages, topology
from vm_protocol.effects import Effect, Observed, Publish, observed
from vm_protocol.observations import Event

Posted = tuple[Vm, tuple[Effect, ...], Missing]
"""The VM, the effects, and whose acknowledgements of the request are waited for."""
MakeRequest = Callable[..., messages.Request]


def post(vm: Vm, make: MakeRequest, kind: str, by: str, vcpu: int | None = None) -> Posted:
    """Post a request to all visible vCPUs; `vcpu` is the one whose unload raised it, if any."""
    recipients = vm.visible()
    # With nobody to reach no generation is used up, so mailboxes stay free of gaps.
    if not recipients:
        nobody = observed(
            Event.REQUEST_POSTED, vm.name, vcpu, kind=kind, by=by, generation=0, recipients=()
        )
        return vm, (nobody,), frozenset()
    generation = vm.generation + 1
    message = make(
        vm=vm.name, incarnation=vm.incarnation, generation=generation, recipients=recipients
    )
    # `routed` is what later fences wait for, so it follows what is bound, not what is present.
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
    missing = frozenset((generation, each) for each in getattr(message, "wait_for", ()))
    publish = Publish(
        topology.REQUESTS.name,
        vm.name,
        message,
        mandatory=True,
        reply_to=topology.MANAGER_REPLIES_QUEUE.name if missing else None,
    )
    return replace(vm, generation=generation, slots=slots), (said, publish), missing


def flush_tlb(vm: Vm, by: str, vcpu: int | None = None) -> Posted:
    """Post a TLB flush (kvm_flush_remote_tlbs)."""
    flush_wait = vm.teardown.ordering.flush_wait if vm.teardown else "in_guest"
    make = partial(messages.TlbFlush, wait_for=waited_for(vm), flush_wait=flush_wait)
    return post(vm, make, messages.TLB_FLUSH, by, vcpu)


def waited_for(vm: Vm) -> tuple[int, ...]:
    """Return whose acknowledgement a flush posted now waits for.

    KVM waits for the IPI of vCPUs in guest mode; `flush_wait: all` for every visible vCPU.
    """
    ordering = vm.teardown.ordering if vm.teardown else None
    if ordering is not None and ordering.flush_wait == "all":
        return vm.visible()
    return in_guest(vm)


def in_guest(vm: Vm) -> tuple[int, ...]:
    """Return the visible vCPUs that are in their guest, as far as the manager knows."""
    return tuple(vcpu for vcpu in vm.visible() if vcpu in vm.in_guest)


def drop_obsolete_roots(vm: Vm, root: str) -> Posted:
    """Post that an invalid root be dropped (KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)."""
    make = partial(messages.DropObsoleteRoots, root=root)
    return post(vm, make, messages.DROP_OBSOLETE_ROOTS, "zap-all")


def scan_ioapic(vm: Vm) -> Posted:
    """Post an IOAPIC scan, as kvm_free_pit does; it waits for vCPUs in guest mode only."""
    make = partial(messages.ScanIoapic, wait_for=in_guest(vm))
    return post(vm, make, messages.SCAN_IOAPIC, "pit")


def clock_update(vm: Vm) -> Posted:
    """Post a clock update, as the kvmclock work does."""
    return post(vm, messages.ClockUpdate, messages.CLOCK_UPDATE, "ticker")

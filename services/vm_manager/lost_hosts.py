"""Workers that are lost: what becomes of the vCPUs that they had; pure.

A manager counts a worker as lost for a VM when nothing has come from it about that VM for LEASE_MS,
or when it leaves in the middle of one. Its vCPUs' memory is gone with their host, so nobody is left
to unload, flush or free them: the manager does what is the VM's own. They leave the array, which
keeps later requests from them; their pins are released by the rules of an unload; nothing waits for
them any more, and the ordering goes on with the others. See docs/decisions/0035-leases.md.
"""

from dataclasses import replace

from vm_manager import creation, flush_waits, interpreter, requests, roots
from vm_manager.removal import forget, lease_name
from vm_manager.state import ManagerResult, ManagerState
from vm_manager.vm import Vm, VmStepped
from vm_protocol import limits, messages
from vm_protocol.codec import voice
from vm_protocol.effects import (
    Ack,
    DeleteMailbox,
    Effect,
    Received,
    Reject,
    SetTimer,
    Unbind,
    observed,
)
from vm_protocol.errors import RejectReason
from vm_protocol.message_ids import MessageId
from vm_protocol.observations import Event
from vm_protocol.trust import worker_actor, worker_of

BY = "host-lost"
"""What raises the flushes and frees the roots that the loss of a worker brings about."""

_CONTEXTS = (0, 1)


def lease(before: Vm, vm: Vm, worker: str) -> tuple[Effect, ...]:
    """Wait for a word of a worker that has got its first vCPU of a VM; each begins it anew."""
    if held_by(before, worker) or not held_by(vm, worker):
        return ()
    scope = MessageId(vm.name, vm.incarnation, "").scope
    of = voice(worker_actor(worker), scope)
    return (SetTimer(lease_name(vm, worker), limits.LEASE_MS, quiet=True, of=of),)


def hear(
    state: ManagerState,
    event: Received,
    said: messages.WorkerAlive | messages.WorkerLeaving,
) -> ManagerResult:
    """Take a worker's word about itself; a sign of life has done its work by coming here."""
    ack = Ack(event.queue, event.message_id)
    worker, vm = said.worker, state.vms.get(said.vm)
    is_itself = worker_of(event.sender) in (worker, None)
    if vm is None or vm.incarnation != said.incarnation:
        return state, (ack,)
    if not is_itself or is_lost(vm, worker):
        return state, (Reject(event.queue, event.message_id, RejectReason.NOT_OWNED),)
    if isinstance(said, messages.WorkerAlive):
        return state, (ack,)
    vm = replace(vm, leaving=vm.leaving | {worker})
    state = state.with_vm(vm)
    # A teardown may still come to its end with this worker: it drains.
    if vm.phase == "destroying":
        return state, (ack,)
    state, effects = lose(state, vm, worker)
    return state, (*effects, ack)


def held_by(vm: Vm, worker: str) -> tuple[int, ...]:
    """Return the vCPUs whose worker this is, as far as their VM still needs it."""
    if vm.phase not in ("creating", "running", "destroying"):
        return ()
    held = (vcpu for vcpu, slot in enumerate(vm.slots) if slot.worker == worker and not slot.lost)
    return tuple(held)


def is_lost(vm: Vm, worker: str) -> bool:
    """Tell whether a VM has lost this worker."""
    return any(slot.lost for slot in vm.slots if slot.worker == worker)


def lose(state: ManagerState, vm: Vm, worker: str) -> ManagerResult:
    """Go on without a worker, if its VM needs it; a VM that is not created yet is undone."""
    lost = held_by(vm, worker)
    if not lost:
        return state, ()
    reason = "drained" if worker in vm.leaving else "silent"
    said = observed(Event.HOST_LOST, vm.name, worker=worker, reason=reason, vcpus=lost)
    if vm.phase == "creating":
        # As KVM does with a vCPU that cannot be created: out of the array first, freed afterwards.
        hidden = _hide(vm, tuple(range(vm.asked)))
        state, removed = forget(state, vm)
        return state, (said, *creation.given_up(vm, "host-lost"), *hidden, *removed)
    vm, effects = _go_on_without(vm, lost)
    return state.with_vm(vm), (said, *effects)


def _go_on_without(vm: Vm, lost: tuple[int, ...]) -> VmStepped:
    """Take lost vCPUs out, and let nothing wait for them."""
    hidden = _hide(vm, lost)
    slots = tuple(
        replace(slot, present=False, bound=False, lost=True) if vcpu in lost else slot
        for vcpu, slot in enumerate(vm.slots)
    )
    vm = replace(vm, slots=slots, in_guest=vm.in_guest - frozenset(lost))
    vm, released = _release(vm, lost)
    deleted = tuple(DeleteMailbox(vm.mailbox(vcpu)) for vcpu in lost)
    vm, unlocked = _stop_waiting(vm, frozenset(lost))
    return vm, (*hidden, *released, *deleted, *unlocked)


def _hide(vm: Vm, vcpus: tuple[int, ...]) -> tuple[Effect, ...]:
    return tuple(Unbind(vm.mailbox(vcpu)) for vcpu in vcpus if vm.slots[vcpu].bound)


def _release(vm: Vm, lost: tuple[int, ...]) -> VmStepped:
    """Drop the pins of lost vCPUs as an unload does; nobody waits for the flushes."""
    effects: list[Effect] = []
    for vcpu in lost:
        for context in _CONTEXTS:
            names = tuple(root.name for root in vm.roots)
            released = roots.release(vm.name, vm.roots, vcpu, context, names)
            vm = replace(vm, roots=released.roots)
            effects += released.effects
            if released.doomed:
                vm, flushed, _ = requests.flush_tlb(vm, BY)
                effects += flushed
                effects += [roots.freed(vm.name, root, BY) for root in released.doomed]
    return vm, tuple(effects)


def _stop_waiting(vm: Vm, lost: frozenset[int]) -> VmStepped:
    """End what the teardown waits for from lost vCPUs, and go on with the others."""
    was_waiting = vm.is_step_waiting()
    vm, effects = flush_waits.forget(vm, lost)
    if vm.is_step_waiting():
        return vm, effects
    if was_waiting:
        vm, further = interpreter.step_waited(vm)
    else:
        vm, further = interpreter.go_on_without(vm, lost)
    return vm, (*effects, *further)

"""Removing a VM from the broker and from what the manager knows; pure."""

from dataclasses import replace

from vm_manager.state import ManagerResult, ManagerState
from vm_manager.vm import Vm
from vm_protocol.effects import CancelTimer, DeleteMailbox, Effect, observed
from vm_protocol.observations import Event
from vm_protocol.timers import TimerKind


def forget(state: ManagerState, vm: Vm) -> ManagerResult:
    """Forget a VM, whatever it is doing; its mailboxes and tombstones go."""
    about = (TimerKind.TICK.of(vm.name), TimerKind.QUARANTINE.of(vm.name))
    timers: tuple[Effect, ...] = tuple(CancelTimer(name) for name in (*about, *leases(vm)))
    deleted = tuple(DeleteMailbox(mailbox) for mailbox in vm.mailboxes())
    removed = observed(Event.VM_REMOVED, vm.name)
    return replace(state, vms=state.vms.delete(vm.name)), (*timers, *deleted, removed)


def leases(vm: Vm) -> tuple[str, ...]:
    """Return the names of the timers that wait for a word of a VM's workers."""
    workers = sorted({slot.worker for slot in vm.slots if slot.worker is not None})
    return tuple(lease_name(vm, worker) for worker in workers)


def lease_name(vm: Vm, worker: str) -> str:
    """Return the name of the timer that waits for a word of a worker about a VM."""
    return TimerKind.LEASE.of(f"{vm.name}/{worker}")

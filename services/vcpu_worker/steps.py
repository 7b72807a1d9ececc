"""What each worker-side step does to a vCPU, as small functions in one table.

A step returns the vCPU with what it emitted; `waiting` on its running command says that it goes
on later. KVM's counterpart stands in each docstring.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from vcpu_worker.vcpu import NO_ROOTS, Running, Vcpu
from vcpu_worker.waits import Wait
from vm_protocol import messages, topology
from vm_protocol.effects import Effect, Observed, Publish, SetTimer, observed
from vm_protocol.observations import Event
from vm_protocol.timers import TimerKind


@dataclass(frozen=True, slots=True)
class Stepped:
    """A vCPU after a step, and the effects of the step."""

    vcpu: Vcpu
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerQueues:
    """The names of a worker's own queues."""

    commands: str
    replies: str


StepFunction = Callable[[Vcpu, Running, WorkerQueues], Stepped]
"""(vCPU, its running command, the worker's queues) -> the vCPU after the step."""


def to_manager(running: Running, message: messages.Message, reply_to: str | None = None) -> Publish:
    """Return the publish of a message to the manager that sent the command."""
    return Publish(
        topology.REPLIES.name,
        running.reply_to,
        message,
        mandatory=True,
        reply_to=reply_to,
        correlation_id=running.message_id,
    )


def _place(running: Running) -> dict[str, object]:
    command = running.command
    return {
        "vm": command.vm,
        "incarnation": command.incarnation,
        "vcpu": command.vcpu,
        "step": command.step,
        "position": running.position,
    }


def _wait(vcpu: Vcpu, running: Running, waiting: Wait) -> Vcpu:
    return replace(vcpu, running=replace(running, waiting=waiting))


def _read_vm_state(running: Running, state: Literal["irqchip", "vendor"]) -> Publish:
    message = messages.VmStateRead.model_validate({**_place(running), "state": state})
    return to_manager(running, message)


def leave_nested(vcpu: Vcpu, running: Running, _queues: WorkerQueues) -> Stepped:
    """Leave the nested guest, which reads the irqchip and the MSR filter (svm_leave_nested)."""
    if not vcpu.nested:
        return Stepped(vcpu)
    return Stepped(replace(vcpu, nested=False), (_read_vm_state(running, "irqchip"),))


def touch_vendor_state(vcpu: Vcpu, running: Running, _queues: WorkerQueues) -> Stepped:
    """Load or put the vCPU; with AVIC that writes the VM's physical id table (avic_vcpu_load)."""
    return Stepped(vcpu, (_read_vm_state(running, "vendor"),) if vcpu.avic else ())


def clear_async_pf(vcpu: Vcpu, _running: Running, _queues: WorkerQueues) -> Stepped:
    """Cancel or wait for pending faults (kvm_clear_async_pf_completion_queue)."""
    mailbox = vcpu.mailbox
    cleared = tuple(
        observed(Event.ASYNC_PF_COMPLETED, mailbox.vm, mailbox.vcpu, fault=fault, how="cleared")
        for fault in vcpu.faults
    )
    return Stepped(replace(vcpu, faults=()), cleared)


def unload_mmu(vcpu: Vcpu, running: Running, queues: WorkerQueues) -> Stepped:
    """Forget all roots and have the manager drop their pins (kvm_mmu_unload).

    With no root left this is KVM's early return: nothing is sent, nothing is waited for.
    """
    if vcpu.contexts == NO_ROOTS:
        return Stepped(vcpu)
    message = messages.RootsReleased.model_validate({**_place(running), "contexts": vcpu.contexts})
    unloaded = replace(vcpu, contexts=NO_ROOTS)
    released = to_manager(running, message, queues.replies)
    return Stepped(_wait(unloaded, running, Wait.UNLOAD), (released,))


def zap_all_until_empty(vcpu: Vcpu, running: Running, queues: WorkerQueues) -> Stepped:
    """Unpin the own roots and have all roots of the VM zapped (free_mmu_pages, until 2007)."""
    message = messages.ZapRequested.model_validate(
        {**_place(running), "attempt": running.attempt, "contexts": vcpu.contexts}
    )
    unpinned = replace(vcpu, contexts=NO_ROOTS)
    requested = to_manager(running, message, queues.replies)
    return Stepped(_wait(unpinned, running, Wait.ZAP), (requested,))


def free_vcpu(vcpu: Vcpu, running: Running, queues: WorkerQueues) -> Stepped:
    """Free the vCPU once its mailbox is consumed up to the fence (kvm_vcpu_destroy).

    Leaves a nested guest first; pending async faults complete right after, into freed memory. A
    vCPU in its guest is freed as it runs: its processor goes on there, and nobody has stopped it.
    """
    left = leave_nested(vcpu, running, queues)
    if running.command.fence and left.vcpu.consumed < running.awaited:
        waited = observed(
            Event.FENCE_WAITED,
            vcpu.mailbox.vm,
            vcpu.mailbox.vcpu,
            generation=running.awaited,
            consumed=vcpu.consumed,
        )
        timer = SetTimer(TimerKind.FENCE.of(vcpu.mailbox.name), vcpu.fence_ms, quiet=True)
        waiting = _wait(left.vcpu, running, Wait.FENCE)
        return Stepped(waiting, (*left.effects, waited, timer))
    mailbox = vcpu.mailbox
    freed = replace(left.vcpu, freed=True, contexts=NO_ROOTS, faults=())
    said = Observed(
        Event.VCPU_FREED,
        mailbox.vm,
        mailbox.vcpu,
        running.command.step,
        running.message_id,
        (("generation", vcpu.consumed),),
    )
    completions = tuple(
        Publish(
            topology.ASYNC_PF.name,
            queues.commands,
            messages.AsyncPfCompleted(
                vm=mailbox.vm, incarnation=mailbox.incarnation, vcpu=mailbox.vcpu, fault=fault
            ),
            mandatory=True,
        )
        for fault in vcpu.faults
    )
    return Stepped(freed, (*left.effects, said, *completions))


STEPS: dict[str, StepFunction] = {
    "leave_nested": leave_nested,
    "load_vcpu": touch_vendor_state,
    "put_vcpu": touch_vendor_state,
    "clear_async_pf": clear_async_pf,
    "unload_mmu": unload_mmu,
    "zap_all_until_empty": zap_all_until_empty,
    "free_vcpu": free_vcpu,
}

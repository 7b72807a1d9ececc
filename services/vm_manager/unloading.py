"""What workers ask of the VM in the middle of a command: unload, zap, a look at VM state; pure."""

from dataclasses import replace

from vm_manager import flush_waits, requests, roots
from vm_manager.vm import FlushWait, Vm
from vm_manager.vm_steps import Stepped
from vm_protocol import messages, topology
from vm_protocol.effects import Ack, Effect, Publish, Reject, observed
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event


def unload(vm: Vm, message: messages.RootsReleased, reply_to: str) -> Stepped:
    """Drop a vCPU's pins and flush where that dooms roots (kvm_mmu_unload).

    At most one flush for each MMU context. The answer waits for those that the flush waits for. A
    repeated message finds no pins, and is answered, or with the first where that still waits.
    """
    effects: list[Effect] = []
    if any(_is_for(wait, message) for wait in vm.waits):
        return vm, ()
    for context, names in enumerate(message.contexts):
        released = roots.release(vm.name, vm.roots, message.vcpu, context, names)
        vm = replace(vm, roots=released.roots)
        effects += released.effects
        if released.doomed:
            vm, flushed = requests.flush_tlb(vm, "unload", message.vcpu)
            effects += flushed
            effects += [roots.freed(vm.name, root, "unload") for root in released.doomed]
    done = messages.UnloadDone(
        vm=vm.name,
        incarnation=vm.incarnation,
        vcpu=message.vcpu,
        step=message.step,
        position=message.position,
        generation=vm.slots[message.vcpu].routed,
    )
    missing = flush_waits.missing_of(effects)
    vm, waited = flush_waits.wait(vm, FlushWait(missing, answer=done, reply_to=reply_to))
    return vm, (*effects, *waited)


def _is_for(wait: FlushWait, message: messages.RootsReleased) -> bool:
    """Tell whether a wait's answer is the one to this message."""
    done = wait.answer
    return done is not None and (done.vcpu, done.step, done.position) == (
        message.vcpu,
        message.step,
        message.position,
    )


def zap_until_empty(vm: Vm, message: messages.ZapRequested, reply_to: str) -> Stepped:
    """Drop a vCPU's pins, free every root without pins, count the rest (2007: free_mmu_pages).

    Posts no request, marks nothing invalid and treats TDP roots alike.
    """
    effects: list[Effect] = []
    listed = vm.roots
    for context, names in enumerate(message.contexts):
        released = roots.release(vm.name, listed, message.vcpu, context, names)
        listed = (*released.roots, *released.doomed)
        effects += released.effects
    left, zapped = roots.zap_unpinned(vm.name, listed, "zap-until-empty")
    done = messages.ZapDone(
        vm=vm.name,
        incarnation=vm.incarnation,
        vcpu=message.vcpu,
        step=message.step,
        position=message.position,
        attempt=message.attempt,
        roots_left=len(left),
    )
    return replace(vm, roots=left), (*effects, *zapped, _answer(reply_to, done, message))


def read_vm_state(vm: Vm, message: messages.VmStateRead, queue: str) -> tuple[Effect, ...]:
    """Take a vCPU's touch of VM-level state; reject it when that state is freed."""
    gone = message.state in vm.freed_state
    read = observed(
        Event.VM_STATE_READ, vm.name, message.vcpu, message.step, state=message.state, freed=gone
    )
    if gone:
        return read, Reject(queue, message.identity(), RejectReason.VM_STATE_FREED)
    return read, Ack(queue, message.identity())


def _answer(reply_to: str, message: messages.Message, to: messages.Message) -> Effect:
    return Publish(
        topology.REPLIES.name, reply_to, message, mandatory=True, correlation_id=to.identity()
    )

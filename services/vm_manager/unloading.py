"""What workers ask of the VM in the middle of a command: unload, zap, a look at VM state; pure."""

from dataclasses import replace

from vm_manager import flush_waits, memory, requests, roots
from vm_manager.vm import FlushWait, Missing, Vm
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
    missing: Missing = frozenset()
    if any(_is_for(wait, message) for wait in vm.waits):
        return vm, ()
    for context, names in enumerate(message.contexts):
        released = roots.release(vm.name, vm.roots, message.vcpu, context, names)
        vm = replace(vm, roots=released.roots)
        effects += released.effects
        if released.doomed:
            vm, flushed, unacked = requests.flush_tlb(vm, "unload", message.vcpu)
            effects += flushed
            missing |= unacked
            effects += [roots.freed(vm.name, root, "unload") for root in released.doomed]
    done = messages.UnloadDone(
        vm=vm.name,
        incarnation=vm.incarnation,
        vcpu=message.vcpu,
        step=message.step,
        position=message.position,
        generation=vm.slots[message.vcpu].routed,
    )
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

    Posts no request, marks nothing invalid and treats TDP roots alike. A repeated message frees
    nothing more: the newest attempt of its place is answered again, an older one is not awaited.
    """
    place = f"{message.vcpu}/{message.step}/{message.position}"
    attempt, roots_left = vm.zaps.get(place, (0, 0))
    if message.attempt <= attempt:
        is_newest = message.attempt == attempt
        return vm, (_zap_done(message, roots_left, reply_to),) if is_newest else ()
    effects: list[Effect] = []
    listed = vm.roots
    for context, names in enumerate(message.contexts):
        released = roots.release(vm.name, listed, message.vcpu, context, names)
        listed = (*released.roots, *released.doomed)
        effects += released.effects
    left, zapped = roots.zap_unpinned(vm.name, listed, "zap-until-empty")
    pages = memory.unmap(vm.pages, [root.name for root in listed if not root.pins])
    zaps = vm.zaps.set(place, (message.attempt, len(left)))
    done = _zap_done(message, len(left), reply_to)
    return replace(vm, roots=left, pages=pages, zaps=zaps), (*effects, *zapped, done)


def _zap_done(message: messages.ZapRequested, roots_left: int, reply_to: str) -> Effect:
    done = messages.ZapDone(
        vm=message.vm,
        incarnation=message.incarnation,
        vcpu=message.vcpu,
        step=message.step,
        position=message.position,
        attempt=message.attempt,
        roots_left=roots_left,
    )
    return _answer(reply_to, done, message)


def read_vm_state(vm: Vm, message: messages.VmStateRead, queue: str) -> Stepped:
    """Take a vCPU's touch of VM-level state; reject it when that state is freed.

    A touch that was granted is over: when its message comes again, later, nothing is touched.
    """
    if message.identity() in vm.reads:
        return vm, (Ack(queue, message.identity()),)
    gone = message.state in vm.freed_state
    read = observed(
        Event.VM_STATE_READ, vm.name, message.vcpu, message.step, state=message.state, freed=gone
    )
    if gone:
        return vm, (read, Reject(queue, message.identity(), RejectReason.VM_STATE_FREED))
    granted = replace(vm, reads=vm.reads | {message.identity()})
    return granted, (read, Ack(queue, message.identity()))


def _answer(reply_to: str, message: messages.Message, to: messages.Message) -> Effect:
    return Publish(
        topology.REPLIES.name, reply_to, message, mandatory=True, correlation_id=to.identity()
    )

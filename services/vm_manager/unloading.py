"""What a worker asks of the manager during a command: unload, zap, touch VM state; pure."""

from dataclasses import replace

from vm_manager import flush_waits, memory, requests, roots
from vm_manager.vm import FlushWait, Missing, Vm, VmStepped
from vm_protocol import messages, topology
from vm_protocol.effects import Ack, Effect, Publish, Reject, observed
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event


def unload(vm: Vm, message: messages.RootsReleased, reply_to: str) -> VmStepped:
    """Drop a vCPU's pins and flush where that dooms roots (kvm_mmu_unload).

    At most one flush for each MMU context. If the flush waits for vCPUs, so does the answer. A
    repeated message finds no pins left and is answered again; while the first answer still waits,
    that one will do for both.
    """
    effects: list[Effect] = []
    missing: Missing = frozenset()
    # The first copy of this message waits for its flush; that answer will do for both.
    if any(_is_for(wait, message) for wait in vm.waits):
        return vm, ()
    for context, names in enumerate(message.contexts):
        released = roots.release(vm.name, vm.roots, message.vcpu, context, names)
        vm = replace(vm, roots=released.roots)
        effects += released.effects
        # One flush for each context, not for each root; it precedes the frees, as in KVM.
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
        # This raises the worker's fence: its free also waits for the flush just posted.
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


def zap_until_empty(vm: Vm, message: messages.ZapRequested, reply_to: str) -> VmStepped:
    """Drop a vCPU's pins, free every root without pins, count the rest (2007: free_mmu_pages).

    Posts no request, marks nothing invalid and treats TDP roots alike. A repeated message frees
    nothing more: if it is the newest attempt at its place, its answer is sent again; nobody waits
    for the answer to an older one.
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
        # The zap of 2007 knows nothing doomed: all roots without pins are freed alike, below.
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


def read_vm_state(vm: Vm, message: messages.VmStateRead, queue: str) -> VmStepped:
    """Take a vCPU's touch of VM-level state; reject it when that state is freed.

    A touch that was granted is over. If its message comes again after the state was freed, nothing
    is touched, so it is acknowledged.
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

"""Waits for a flush or a scan: for whom, and what happens afterwards; pure.

KVM: the IPI wait in `kvm_make_all_cpus_request()`. A vCPU that is freed never acknowledges: once
nothing has reached the manager for `request_ms`, a teardown that waits for a freed vCPU is given
up. A live vCPU is waited for as long as it takes: a slow worker is no bug of the ordering.
"""

from collections.abc import Callable
from dataclasses import replace

from vm_manager.vm import FlushWait, Vm, VmStepped
from vm_protocol import messages, topology
from vm_protocol.effects import CancelTimer, Effect, Publish, SetTimer, observed
from vm_protocol.observations import Event
from vm_protocol.timers import TimerKind


def timer(vm: Vm) -> Effect:
    """Return the start of the waits' timer: it runs while nothing reaches the manager."""
    return SetTimer(TimerKind.FLUSH.of(vm.name), vm.scenario.request_ms, quiet=True)


def are_hopeless(vm: Vm, freed: frozenset[int]) -> bool:
    """Tell whether a wait is for a vCPU that was freed, and so can never end.

    A worker acknowledges a flush before it answers the command that frees the vCPU, or never: its
    replies come in order.
    """
    return any(vcpu in freed for each in vm.waits for _, vcpu in each.missing)


def wait(vm: Vm, wanted: FlushWait) -> VmStepped:
    """Begin a wait; it ends at once if no acknowledgement is missing."""
    if not wanted.missing:
        return _end(vm, wanted)
    said = tuple(
        observed(
            Event.FLUSH_WAITED,
            vm.name,
            generation=generation,
            missing=tuple(sorted(vcpu for each, vcpu in wanted.missing if each == generation)),
        )
        for generation in sorted({generation for generation, _ in wanted.missing})
    )
    return replace(vm, waits=(*vm.waits, wanted)), (*said, timer(vm))


def acked(vm: Vm, message: messages.RequestAcked) -> VmStepped:
    """Take an acknowledgement: the vCPU has left its guest; end the waits that it completes."""
    vm = replace(vm, in_guest=vm.in_guest - {message.vcpu})
    return _without(vm, lambda missing: missing == (message.generation, message.vcpu))


def forget(vm: Vm, lost: frozenset[int]) -> VmStepped:
    """Wait no more for vCPUs that are lost, nor for what only a lost one was to be told."""
    waits = tuple(each for each in vm.waits if each.answer is None or each.answer.vcpu not in lost)
    cancelled = (CancelTimer(TimerKind.FLUSH.of(vm.name)),) if vm.waits and not waits else ()
    vm, effects = _without(replace(vm, waits=waits), lambda missing: missing[1] in lost)
    return vm, (*cancelled, *effects)


def _without(vm: Vm, is_over: Callable[[tuple[int, int]], bool]) -> VmStepped:
    effects: list[Effect] = []
    kept: list[FlushWait] = []
    ended: list[FlushWait] = []
    for each in vm.waits:
        left = replace(each, missing=frozenset(m for m in each.missing if not is_over(m)))
        (kept if left.missing else ended).append(left)
    if vm.waits and not kept:
        effects.append(CancelTimer(TimerKind.FLUSH.of(vm.name)))
    vm = replace(vm, waits=tuple(kept))
    for each in ended:
        vm, done = _end(vm, each)
        effects += done
    return vm, tuple(effects)


def _end(vm: Vm, ended: FlushWait) -> VmStepped:
    """Do what waited: free the pages, answer the unload."""
    effects: list[Effect] = [observed(Event.PAGE_FREED, vm.name, root=page) for page in ended.pages]
    if ended.answer is not None and ended.reply_to is not None:
        effects.append(
            Publish(
                topology.REPLIES.name,
                ended.reply_to,
                ended.answer,
                mandatory=True,
            )
        )
    return vm, tuple(effects)


def why_stuck(vm: Vm) -> str:
    """Return what the oldest wait is still missing, for people."""
    generation, vcpu = min(min(each.missing) for each in vm.waits)
    return f"vCPU {vcpu} has not acknowledged the flush of generation {generation}"

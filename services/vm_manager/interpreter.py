"""The ordering interpreter: runs steps until one has to wait; pure.

A loop's body is split into parts: neighbouring worker-side steps travel as one DestroyVcpu,
`erase_vcpu` is the manager's own. What a step does stands in `vm_steps` and in the worker.
"""

from dataclasses import replace
from functools import lru_cache
from typing import cast

from vm_manager.vm import LoopProgress, Teardown, Vm, VmStepped
from vm_manager.vm_steps import VM_STEP_FUNCTIONS, erase_vcpu
from vm_protocol import messages, topology
from vm_protocol.effects import Ack, CancelTimer, Effect, Publish, SetTimer, observed
from vm_protocol.observations import Event
from vm_protocol.ordering import ForEachVcpu, Loop, WorkerStep
from vm_protocol.timers import TimerKind

Part = tuple[str, ...]
"""Worker-side steps of one command, or the single manager-side step ("erase_vcpu",)."""

ERASE: Part = ("erase_vcpu",)


@lru_cache(maxsize=256)
def split(steps: tuple[str, ...]) -> tuple[Part, ...]:
    """Return a loop's body as parts, in order."""
    parts: list[Part] = []
    for step in steps:
        # Only the manager can unbind a mailbox, so `erase_vcpu` divides a body into parts.
        if (step,) == ERASE or not parts or parts[-1] == ERASE:
            parts.append((step,))
        else:
            parts[-1] = (*parts[-1], step)
    return tuple(parts)


def run(vm: Vm) -> VmStepped:
    """Run steps until the VM is freed, a loop waits for its workers, or a step for its flush."""
    effects: list[Effect] = []
    while vm.teardown is not None and vm.phase == "destroying":
        teardown = vm.teardown
        if teardown.position == len(teardown.ordering.steps):
            vm, ended = _free_vm(vm, teardown)
            return vm, (*effects, *ended)
        step = teardown.ordering.steps[teardown.position]
        if isinstance(step, ForEachVcpu):
            vm, done = _advance_loop(vm, step.for_each_vcpu)
            effects += done
            # Some vCPU's worker is at work; part_done() takes its answer and runs on from here.
            if vm.teardown is None or vm.teardown.loop is not None:
                break
        else:
            path = str(teardown.position)
            effects.append(observed(Event.STEP_STARTED, vm.name, None, path, name=step))
            vm, done = VM_STEP_FUNCTIONS[step](vm)
            effects += done
            # The step's flush waits for vCPUs in their guest; step_waited() goes on from here.
            if vm.is_step_waiting():
                break
            vm, finished = _finish_step(vm, teardown)
            effects += finished
    return vm, tuple(effects)


def step_waited(vm: Vm) -> VmStepped:
    """Go on after a VM step whose flush is acknowledged by all that were waited for."""
    if vm.teardown is None or vm.phase != "destroying":
        return vm, ()
    vm, finished = _finish_step(vm, vm.teardown)
    vm, further = run(vm)
    return vm, (*finished, *further)


def _finish_step(vm: Vm, teardown: Teardown) -> VmStepped:
    step = teardown.ordering.steps[teardown.position]
    path = str(teardown.position)
    finished = observed(Event.STEP_FINISHED, vm.name, None, path, name=str(step))
    vm = _with_teardown(vm, replace(teardown, position=teardown.position + 1))
    return vm, (finished,)


def part_done(vm: Vm, vcpu: int, path: str) -> VmStepped:
    """Take a worker's answer: go on with the vCPU's next part; a repeated answer does nothing."""
    loop, current = _current_loop(vm)
    if loop is None or current is None:
        return vm, ()
    # An answer that comes again after a lost connection names a part that no longer runs.
    for index, part in current.running:
        if index == vcpu and f"{_position(vm)}.{part}" == path:
            running = tuple(entry for entry in current.running if entry[0] != vcpu)
            vm = _with_loop(vm, replace(current, running=running))
            vm, effects = _run_parts(vm, loop, vcpu, part + 1)
            vm, further = run(vm)
            return vm, (*effects, *further)
    return vm, ()


def waits_for(vm: Vm, vcpu: int, path: str) -> bool:
    """Tell whether the teardown waits for this vCPU's command at this step."""
    _, current = _current_loop(vm)
    waiting = current.running if current else ()
    return any(index == vcpu and f"{_position(vm)}.{part}" == path for index, part in waiting)


def go_on_without(vm: Vm, lost: frozenset[int]) -> VmStepped:
    """Go on when vCPUs are lost: what is left of their bodies counts as not to be done."""
    _, current = _current_loop(vm)
    if current is not None:
        waiting = tuple(vcpu for vcpu in current.waiting if vcpu not in lost)
        running = tuple(entry for entry in current.running if entry[0] not in lost)
        vm = _with_loop(vm, LoopProgress(waiting, running))
    return run(vm)


def stop_stuck(vm: Vm, why: str, vcpu: int | None) -> VmStepped:
    """End the teardown at a step that cannot end; the VM is not freed."""
    assert vm.teardown is not None, "only a teardown gets stuck"
    effects = (
        observed(Event.TEARDOWN_STUCK, vm.name, vcpu, str(vm.teardown.position), why=why),
        CancelTimer(TimerKind.TICK.of(vm.name)),
        CancelTimer(TimerKind.FLUSH.of(vm.name)),
        *_answer(vm, vm.teardown, "stuck"),
    )
    return replace(vm, phase="stuck", waits=()), effects


def _position(vm: Vm) -> int:
    return vm.teardown.position if vm.teardown else -1


def _with_teardown(vm: Vm, teardown: Teardown) -> Vm:
    return replace(vm, teardown=teardown)


def _with_loop(vm: Vm, loop: LoopProgress | None) -> Vm:
    assert vm.teardown is not None, "loops are a teardown's"
    return replace(vm, teardown=replace(vm.teardown, loop=loop))


def _current_loop(vm: Vm) -> tuple[Loop | None, LoopProgress | None]:
    if vm.teardown is None or vm.phase != "destroying" or vm.teardown.loop is None:
        return None, None
    step = vm.teardown.ordering.steps[vm.teardown.position]
    return (step.for_each_vcpu if isinstance(step, ForEachVcpu) else None), vm.teardown.loop


def _advance_loop(vm: Vm, loop: Loop) -> VmStepped:
    """Begin as many bodies as may be in flight; leave the loop when all have ended."""
    assert vm.teardown is not None, "loops are a teardown's"
    if vm.teardown.loop is None:
        # Every vCPU that was created, also those that an earlier loop has erased or freed: what
        # their steps then do is for the run to show. Only of lost ones nobody can do any.
        order = tuple(vcpu for vcpu, slot in enumerate(vm.slots) if not slot.lost)
        vm = _with_loop(vm, LoopProgress(order if loop.order == "ascending" else order[::-1]))
    parallel = len(vm.slots) if loop.parallel == "all" else loop.parallel
    effects: list[Effect] = []
    while True:
        _, current = _current_loop(vm)
        assert current is not None, "set above"
        if not current.waiting or len(current.running) >= parallel:
            break
        vcpu, *later = current.waiting
        vm = _with_loop(vm, replace(current, waiting=tuple(later)))
        vm, done = _run_parts(vm, loop, vcpu, 0)
        effects += done
    if not current.waiting and not current.running:
        assert vm.teardown is not None, "set above"
        ended = replace(vm.teardown, position=vm.teardown.position + 1, loop=None)
        vm = _with_teardown(vm, ended)
    return vm, tuple(effects)


def _run_parts(vm: Vm, loop: Loop, vcpu: int, first: int) -> VmStepped:
    """Run a vCPU's body from a part on, until it ends or a command is sent."""
    effects: list[Effect] = []
    for number, part in enumerate(split(loop.steps)):
        if number < first:
            continue
        path = f"{_position(vm)}.{number}"
        if part == ERASE:
            effects.append(observed(Event.STEP_STARTED, vm.name, vcpu, path, name="erase_vcpu"))
            vm, done = erase_vcpu(vm, vcpu)
            effects += done
            effects.append(observed(Event.STEP_FINISHED, vm.name, vcpu, path, name="erase_vcpu"))
            continue
        effects.append(_command(vm, vcpu, path, part))
        _, current = _current_loop(vm)
        assert current is not None, "parts run in a loop"
        running = (*current.running, (vcpu, number))
        return _with_loop(vm, replace(current, running=running)), tuple(effects)
    return vm, tuple(effects)


def _command(vm: Vm, vcpu: int, path: str, part: Part) -> Effect:
    assert vm.teardown is not None, "commands are a teardown's"
    slot = vm.slots[vcpu]
    assert slot.worker is not None, "a created VM's vCPUs are placed"
    message = messages.DestroyVcpu(
        vm=vm.name,
        incarnation=vm.incarnation,
        vcpu=vcpu,
        step=path,
        steps=cast(tuple[WorkerStep, ...], part),
        # The fence: a free in this command waits for all that was routed to the mailbox by now.
        generation=slot.routed,
        fence=vm.teardown.ordering.fence,
    )
    key = topology.worker_commands(slot.worker).name
    return Publish(
        topology.COMMANDS.name,
        key,
        message,
        mandatory=True,
        reply_to=topology.MANAGER_REPLIES_QUEUE.name,
    )


def _answer(vm: Vm, teardown: Teardown, outcome: str) -> tuple[Effect, ...]:
    message = messages.VmDestroyed.model_validate(
        {"vm": vm.name, "incarnation": vm.incarnation, "outcome": outcome}
    )
    publish = Publish(
        topology.REPLIES.name, teardown.reply_to, message, correlation_id=teardown.command_id
    )
    # DestroyVm was unsettled until here: had this manager died, it would be back in its queue.
    return publish, Ack(topology.MANAGER_COMMANDS_QUEUE.name, teardown.command_id)


def _free_vm(vm: Vm, teardown: Teardown) -> VmStepped:
    """Free the VM (kvm_arch_free_vm); mailboxes and tombstones stay for the quarantine."""
    effects = (
        observed(Event.VM_FREED, vm.name),
        CancelTimer(TimerKind.TICK.of(vm.name)),
        *_answer(vm, teardown, "freed"),
        SetTimer(TimerKind.QUARANTINE.of(vm.name), vm.scenario.quarantine_ms),
    )
    return replace(vm, phase="freed", background=False), effects


FREE = "free_vcpu"


def freed_vcpus(vm: Vm) -> frozenset[int]:
    """Return the vCPUs whose worker has answered a command that frees them."""
    teardown = vm.teardown
    if teardown is None:
        return frozenset()
    everybody = frozenset(range(len(vm.slots)))
    for step in teardown.ordering.steps[: teardown.position]:
        if isinstance(step, ForEachVcpu) and FREE in step.for_each_vcpu.steps:
            return everybody
    if teardown.position == len(teardown.ordering.steps) or teardown.loop is None:
        return frozenset()
    current = teardown.ordering.steps[teardown.position]
    if not isinstance(current, ForEachVcpu) or FREE not in current.for_each_vcpu.steps:
        return frozenset()
    return everybody - _living(teardown, current.for_each_vcpu)


def _living(teardown: Teardown, loop: Loop) -> frozenset[int]:
    """Return the vCPUs that the teardown's present loop has not freed yet."""
    assert teardown.loop is not None, "asked for a teardown in a loop"
    freeing = next(number for number, part in enumerate(split(loop.steps)) if FREE in part)
    begun = {vcpu for vcpu, part in teardown.loop.running if part <= freeing}
    return frozenset((*teardown.loop.waiting, *begun))

"""How far a teardown has come, read off its position: which vCPUs are freed by now; pure."""

from vm_manager.interpreter import split
from vm_manager.vm import Teardown, Vm
from vm_protocol.ordering import ForEachVcpu, Loop

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

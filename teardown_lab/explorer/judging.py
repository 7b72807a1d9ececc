"""What the explorer sees on a transition by looking at several vCPUs at once; reads states only."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from teardown_lab.explorer.cast import VM
from teardown_lab.explorer.findings import OPEN_WINDOW, Finding
from teardown_lab.explorer.operations import Operation
from teardown_lab.explorer.steps import Steps
from vm_protocol.invariants import Invariant
from vm_protocol.topology import Mailbox


class VcpusSeen(Protocol):
    """What is read of the model, which has all of it."""

    vcpus: int
    bound_at: int
    steps: Steps

    def is_freed(self, state: Sequence[int], vcpu: int) -> bool:
        """Tell whether a vCPU is freed in a state."""
        ...


def lost(model: VcpusSeen, state: Sequence[int], operation: Operation) -> Iterator[Finding]:
    """Yield the vCPUs that live and that a request has missed."""
    _, missed, message = operation
    for vcpu in missed:
        if not model.is_freed(state, vcpu):
            yield Finding(Invariant.LOST_REQUEST, vcpu, message=message)


def stale(model: VcpusSeen, state: Sequence[int], page: str) -> Iterator[Finding]:
    """Yield the vCPUs in guest that may still translate to a page that is freed."""
    for vcpu in range(model.vcpus):
        worker = model.steps.states[vcpu + 1].value(state[vcpu + 1])
        owned = worker.vcpus.get(Mailbox(VM, vcpu))
        if owned is not None and owned.in_guest and page in owned.tlb:
            yield Finding(Invariant.STALE_TLB, vcpu, message=page)


def open_windows(model: VcpusSeen, state: Sequence[int], operation: Operation) -> Iterator[Finding]:
    """Yield the vCPUs that are freed and still visible while a step other than their erase begins.

    The step's own worker may free its vCPU later in the same transition: the operation says
    whether it had done so by then.
    """
    _, owner, owner_is_freed, erased = operation
    for vcpu in range(model.vcpus):
        if vcpu == erased or not state[model.bound_at] >> vcpu & 1:
            continue
        if owner_is_freed if vcpu == owner else model.is_freed(state, vcpu):
            yield Finding(OPEN_WINDOW, vcpu)


def alive(model: VcpusSeen, state: list[int]) -> list[Finding]:
    """Return the vCPUs that are alive as the VM is freed: each is a leak."""
    return [Finding(Invariant.LEAK, v) for v in range(model.vcpus) if not model.is_freed(state, v)]

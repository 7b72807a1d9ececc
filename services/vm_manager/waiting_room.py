"""Who is created next: one VM at a time takes places, the others wait in order; pure.

If two VMs took places at once, each could hold what the other lacks, and neither would ever be
complete. A creation that waits holds no places, so it can keep nobody from freeing them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from vm_manager.vm import Vm
from vm_protocol import limits, messages
from vm_protocol.effects import CancelTimer, Effect, SetTimer
from vm_protocol.timers import TimerKind


@dataclass(frozen=True, slots=True)
class Waiting:
    """A CreateVm that waits for its turn."""

    create: messages.CreateVm
    reply_to: str

    @property
    def vm(self) -> str:
        """Return the VM's name."""
        return self.create.vm


@dataclass(frozen=True, slots=True)
class Placing:
    """The VM that takes places; it had `placed` of them when it was last looked at.

    It has got no further for `idle_ms`, as far as was looked.
    """

    vm: str
    placed: int = 0
    idle_ms: int = 0


def begun(vm: str) -> tuple[Effect, ...]:
    """Return what a VM's turn begins with."""
    placing = SetTimer(TimerKind.PLACING.of(vm), limits.PLACING_MS)
    return CancelTimer(TimerKind.WAITING.of(vm)), placing


def find(waiting: Iterable[Waiting], vm: str) -> Waiting | None:
    """Return the creation of this VM that waits, if there is one."""
    return next((each for each in waiting if each.vm == vm), None)


def without(waiting: Iterable[Waiting], vm: str) -> tuple[Waiting, ...]:
    """Return those that wait, but for this VM's."""
    return tuple(each for each in waiting if each.vm != vm)


def placed_count(vm: Vm) -> int:
    """Return how many of a VM's vCPUs have a place."""
    return sum(slot.worker is not None for slot in vm.slots)


def known_places(vms: Iterable[Vm], places: Iterable[tuple[str, int]]) -> int:
    """Return how many places the workers that hold vCPUs of these VMs have in all; 0: unknown.

    A worker that holds none of them has free places and would have taken some, so it cannot help.
    """
    holding = {slot.worker for vm in vms for slot in vm.slots if not slot.lost}
    return sum(count for worker, count in places if worker in holding)


def why_not_placed(vm: Vm, known: int) -> str:
    """Return the words for the client of a VM that has not got its places."""
    wanted, got = len(vm.slots), placed_count(vm)
    if known and wanted > known:
        return (
            f"{wanted} vCPUs want a place each, and the workers have {known}; {got} were free: "
            "start more workers, raise WORKER_CAPACITY, or ask for fewer vCPUs"
        )
    return (
        f"{wanted} vCPUs want a place each, and {got} were free for "
        f"{limits.CREATION_WAIT_MS // 1000} s: destroy or remove VMs, start more workers, or try "
        "again"
    )


def why_not_begun(waits: Waiting) -> str:
    """Return the words for the client of a VM whose turn has not come."""
    return (
        f"{waits.create.scenario.vcpus} vCPUs want a place each, and 0 were free for them within "
        f"{limits.CREATION_WAIT_MS // 1000} s: creations before this one took what came free; "
        "destroy or remove VMs, start more workers, or try again"
    )


def why_full() -> str:
    """Return the words for the client of a VM that may not even wait."""
    return (
        f"0 places are free, and {limits.CREATIONS_WAITING_MAX} creations wait for one: destroy or "
        "remove VMs, start more workers, or try again later"
    )

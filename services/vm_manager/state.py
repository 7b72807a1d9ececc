"""What a manager knows; pure values."""

from dataclasses import dataclass, field, replace

from immutables import Map

from vm_manager.vm import Vm
from vm_manager.waiting_room import Placing, Waiting
from vm_protocol.effects import Effect

Vms = Map[str, Vm]


@dataclass(frozen=True, slots=True)
class ManagerState:
    """The VMs that a manager knows, those in quarantine included.

    `placing` is the VM that takes places,
    `waiting` are the creations after it; `places` is what workers have said that they hold, by
    their names.
    """

    vms: Vms = field(default_factory=Map)
    placing: Placing | None = None
    waiting: tuple[Waiting, ...] = ()
    places: Map[str, int] = field(default_factory=Map)

    def with_vm(self, vm: Vm) -> "ManagerState":
        """Return the state with one VM added or replaced."""
        return replace(self, vms=self.vms.set(vm.name, vm))


ManagerResult = tuple[ManagerState, tuple[Effect, ...]]

"""The gauges of the manager and of the monitor, read off their states; data, no clock."""

from typing import Final

from vm_manager.monitor import MonitorState
from vm_manager.state import ManagerState
from vm_protocol.gauges import GaugeRow


def _vms(state: ManagerState) -> int:
    return len(state.vms)


def _waiting_creations(state: ManagerState) -> int:
    return len(state.waiting) + (state.placing is not None)


def _teardowns(state: ManagerState) -> int:
    return sum(vm.phase == "destroying" for vm in state.vms.values())


def _known(state: ManagerState) -> int:
    return sum(len(vm.slots) for vm in state.vms.values())


def _visible(state: ManagerState) -> int:
    return sum(len(vm.visible()) for vm in state.vms.values())


def _pinned(state: ManagerState) -> int:
    return sum(bool(root.pins) for vm in state.vms.values() for root in vm.roots)


def _lag(state: MonitorState) -> int:
    return state.open_requests.lag()


def _waiting(state: MonitorState) -> int:
    return len(state.waiting)


MANAGER_GAUGES: Final = (
    GaugeRow("teardown_vms", "VMs that the manager knows, those in quarantine included", _vms),
    GaugeRow(
        "teardown_known_vcpus",
        "vCPUs of VMs that the manager knows, freed ones and those in quarantine included",
        _known,
    ),
    GaugeRow(
        "teardown_creations_waiting",
        "Creations that have not got all their places yet, the one that takes them included",
        _waiting_creations,
    ),
    GaugeRow("teardown_teardowns_running", "Teardowns in progress", _teardowns),
    GaugeRow("teardown_visible_vcpus", "vCPUs that a request reaches", _visible),
    GaugeRow("teardown_pinned_roots", "MMU roots that some vCPU pins", _pinned),
)
MONITOR_GAUGES: Final = (
    GaugeRow(
        "teardown_mailbox_generation_lag",
        "Requests posted to one vCPU's mailbox and not settled yet, at the vCPU with the most",
        _lag,
    ),
    GaugeRow("teardown_dead_letters_waiting", "Dead letters that wait for their record", _waiting),
)

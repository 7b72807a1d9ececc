"""The gauges of a worker, read off its state; data, no clock."""

from typing import Final

from vcpu_worker.worker import WorkerState
from vm_protocol.gauges import GaugeRow


def _live(state: WorkerState) -> int:
    return state.live


def _tombstones(state: WorkerState) -> int:
    return len(state.vcpus) - state.live


def _commands(state: WorkerState) -> int:
    return sum(vcpu.running is not None for vcpu in state.vcpus.values())


WORKER_GAUGES: Final = (
    GaugeRow("teardown_live_vcpus", "vCPUs that the worker owns and has not freed", _live),
    GaugeRow("teardown_tombstones", "Freed vCPUs whose mailbox is still watched", _tombstones),
    GaugeRow("teardown_commands_running", "DestroyVcpu commands in progress", _commands),
)

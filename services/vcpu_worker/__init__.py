"""The vcpu_worker service: owns vCPUs' MMU state, takes requests, runs destroy commands.

Takes PlaceVcpu, DestroyVcpu, AsyncPfCompleted, UnloadDone, ZapDone and the requests; answers with
VcpuPlaced, VcpuStepsDone, RootsReleased, ZapRequested and VmStateRead. Exports the pure core.
"""

from vcpu_worker.worker import VcpuWorker, WorkerState

__all__ = ["VcpuWorker", "WorkerState"]

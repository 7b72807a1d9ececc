"""`vcpu-worker`: one worker in one process."""

import sys

from service_runtime.run import ServicePart, serve
from service_runtime.settings import Settings
from vcpu_worker.gauges import WORKER_GAUGES
from vcpu_worker.worker import VcpuWorker, WorkerState
from vm_protocol.actor import Actor


def main() -> None:
    """Run the service until it is told to end."""

    def parts(settings: Settings) -> tuple[ServicePart, ...]:
        worker = VcpuWorker(settings.worker_id, settings.worker_capacity)
        actor = Actor(worker, trust=settings.trust())
        return (ServicePart(actor, WORKER_GAUGES, is_at_rest=WorkerState.is_at_rest),)

    sys.exit(serve("vcpu-worker", parts))


if __name__ == "__main__":
    main()

"""`vcpu-worker`: one worker in one process."""

import sys

from service_runtime.run import serve
from service_runtime.settings import Settings
from vcpu_worker.worker import VcpuWorker, WorkerState
from vm_protocol.actor import Actor


def main() -> None:
    """Run the service until it is told to end."""

    def actors(settings: Settings) -> tuple[Actor[WorkerState], ...]:
        return (Actor(VcpuWorker(settings.worker_id, settings.worker_capacity)),)

    sys.exit(serve("vcpu-worker", actors))


if __name__ == "__main__":
    main()

"""`vm-manager`: the manager and the dead-letter monitor in one process."""

import sys

from service_runtime.run import Part, serve
from vm_manager.gauges import MANAGER_GAUGES, MONITOR_GAUGES
from vm_manager.manager import VmManager
from vm_manager.monitor import SKIPPED, DeadLetterMonitor
from vm_protocol import limits
from vm_protocol.actor import Actor


def main() -> None:
    """Run the service until it is told to end."""
    epoch = limits.MANAGER_EPOCH
    sys.exit(
        serve(
            "vm-manager",
            lambda _: (
                Part(Actor(VmManager(), epoch), MANAGER_GAUGES),
                Part(Actor(DeadLetterMonitor(), epoch, SKIPPED), MONITOR_GAUGES),
            ),
        )
    )


if __name__ == "__main__":
    main()

"""`vm-manager`: the manager and the dead-letter monitor in one process."""

import sys

from service_runtime.run import ServicePart, serve
from service_runtime.settings import Settings
from vm_manager.gauges import MANAGER_GAUGES, MONITOR_GAUGES
from vm_manager.manager import VmManager
from vm_manager.monitor import SKIPPED, DeadLetterMonitor
from vm_protocol import limits
from vm_protocol.actor import Actor
from vm_protocol.topology import MANAGER_COMMANDS_QUEUE


def main() -> None:
    """Run the service until it is told to end."""
    epoch = limits.MANAGER_EPOCH
    office = (MANAGER_COMMANDS_QUEUE, limits.MANAGER_PREFETCH)

    def parts(settings: Settings) -> tuple[ServicePart, ...]:
        trust = settings.trust()
        manager = Actor(VmManager(), epoch, trust=trust)
        monitor = Actor(DeadLetterMonitor(settings.replica), epoch, SKIPPED, trust)
        return (
            ServicePart(manager, MANAGER_GAUGES, office=office),
            ServicePart(monitor, MONITOR_GAUGES, settings.monitor_amqp_url),
        )

    sys.exit(serve("vm-manager", parts))


if __name__ == "__main__":
    main()

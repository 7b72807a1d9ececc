"""How a driver stands with its broker: what metrics, health and the lab read of it."""

from service_runtime.amqp.publishing import Publishers
from service_runtime.amqp.queues import Queues


class Connectivity:
    """Written by its driver alone, read from any thread.

    `is_connected`: a session is up, with everything consumed that was asked for.
    """

    def __init__(self, publishers: Publishers, queues: Queues) -> None:
        self._publishers = publishers
        self._queues = queues
        self.is_connected = False
        self.broker_version = "unknown"
        self.reconnect_count = 0

    @property
    def is_blocked(self) -> bool:
        """Tell whether the broker blocks publishers right now."""
        return self._publishers.is_blocked

    @property
    def unconfirmed_count(self) -> int:
        """Return how many publishes the broker has not confirmed yet."""
        return len(self._publishers)

    @property
    def cancelled_count(self) -> int:
        """Return how many consumers the broker has cancelled whose queue is still there."""
        return self._queues.cancellations.count

"""Where a driver's deliveries, timers, publishes and settlements pass: to be held, or spoilt.

A `Passage` lets everything through at once. A replay's gate (`gate.py`) is one that holds what
comes in; faults to be injected can be others. What is published again after a lost connection does
not pass a second time.
"""

from collections.abc import Callable
from typing import Final, Protocol

from service_runtime.amqp.confirms import Batch, Outgoing
from service_runtime.amqp.settlements import Settlements
from vm_protocol.actor import Plan
from vm_protocol.codec import Packet


class Take(Protocol):
    """Steps the core once on what has arrived; a copy is one that the broker knows nothing of."""

    def __call__(self, is_copy: bool = False) -> Plan:
        """Return what the core asks for."""


Handler = Callable[[], Plan]
Enqueue = Callable[[Handler], None]
"""Hands a handler to the driver's loop, at any time and as often as it is to be run."""

SendOn = Callable[[Outgoing, Batch], None]
"""Publishes to the broker; the batch stays open until that is confirmed."""


class Passage:
    """Lets everything pass; the drivers of a process may share one."""

    def arrived(self, _queue: str, _packet: Packet, take: Take, enqueue: Enqueue) -> None:
        """Take a delivery; one that is never enqueued stays unsettled at the broker."""
        enqueue(take)

    def fired(self, _timer: str, take: Take, enqueue: Enqueue) -> None:
        """Take a timer that has fired."""
        enqueue(take)

    def leaving(self, outgoing: Outgoing, batch: Batch, forward: SendOn) -> None:
        """Publish a message or journal records; `batch` already counts it as open.

        To drop it is `batch.confirmed()` instead, to repeat it one more `batch.open_count`.
        """
        forward(outgoing, batch)

    def settling(self, settlements: Settlements) -> Callable[[], None]:
        """Return what settles a batch, once all of it is confirmed; called before it is stepped."""
        return settlements.perform


DIRECT: Final = Passage()

"""Where a driver's deliveries, timers, publishes and settlements pass.

A `Passage` lets everything through at once. Another one can hold, repeat, change or drop what
passes: a replay's gate (`gate.py`) holds what comes in; faults to be injected can be others. What
is published again after a lost connection does not pass a second time.
"""

from collections.abc import Callable
from typing import Final, Protocol

from service_runtime.amqp.confirms import Batch, Outgoing
from service_runtime.amqp.settlements import Settlements
from vm_protocol.actor import Plan
from vm_protocol.codec import Packet


class Take(Protocol):
    """Steps the core once on what has arrived; a copy is a repetition made here: never settled."""

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

        To drop it, call `batch.confirmed()` instead of `forward`; to repeat it, add one to
        `batch.open_count` and forward it twice.
        """
        forward(outgoing, batch)

    def reached(self, _boundary: str) -> None:
        """Stand before or after an entry of the log, some records, or an effect."""

    def settling(self, settlements: Settlements) -> Callable[[], None]:
        """Return what settles a batch once it is confirmed; asked for before its handlers run."""
        return settlements.perform


DIRECT: Final = Passage()

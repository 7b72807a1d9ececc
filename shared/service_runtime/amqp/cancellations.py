"""Consumers that the broker has cancelled: because their queue is gone, or although it is there.

A deletion and, since 4.3, a consumer timeout both arrive as `basic.cancel` (RabbitMQ: consumers).
Older brokers close the channel over a timeout instead (406). Only a look tells them apart.
"""

from typing import Any, Final

from service_runtime.amqp.session import AmqpSession
from vm_protocol.topology import Mailbox, parse_mailbox

_TIMED_OUT: Final = "delivery acknowledgement on channel"
"""The beginning of what brokers before 4.3 say of a consumer timeout."""

_WAY_OUT: Final = (
    "a delivery was not settled within the broker's consumer timeout: raise consumer_timeout "
    "if teardowns may take that long"
)


class Cancellations:
    """What was cancelled and not looked at yet; counts those whose queue stays."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._queues: list[str] = []
        self.count = 0

    def add(self, queue: str) -> None:
        """Take a `basic.cancel`."""
        self._queues.append(queue)

    def clear(self) -> None:
        """Forget what was cancelled on a session that is over: the next consumes all anew."""
        self._queues.clear()

    async def look(self, session: AmqpSession) -> list[Mailbox]:
        """Return the mailboxes that are gone.

        Any other queue, and a mailbox that is still there, has to be consumed again. That takes a
        new session, which declares and consumes everything, so the present one is given up.

        Raises:
            SessionLost: The session is lost meanwhile.
        """
        gone: list[Mailbox] = []
        while self._queues:
            queue = self._queues.pop(0)
            mailbox, exists = parse_mailbox(queue), await session.exists(queue)
            # A mailbox may end, and its core is told; any other queue has to be consumed again.
            if mailbox is not None and not exists:
                gone.append(mailbox)
                continue
            self._say(queue, exists=exists)
            session.abandon(f"consumer of {queue} cancelled")
        return gone

    def note(self, lost: Exception) -> None:
        """Take a lost session for a cancelled consumer if that is what the broker says."""
        if _TIMED_OUT in str(lost):
            self._say("(of the channel)", exists=True)

    def _say(self, queue: str, *, exists: bool) -> None:
        self.count += exists
        why = _WAY_OUT if exists else "its queue was deleted"
        self._log.warning("broker.consumer_cancelled", queue=queue, queue_exists=exists, why=why)

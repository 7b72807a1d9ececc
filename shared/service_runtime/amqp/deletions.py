"""Queues that are being deleted, while everything else goes on.

While a node of a cluster is away, the broker takes 5 s to delete one quorum queue (seen in 3.10: it
waits for all members), and a VM has one for each vCPU. Nothing but a new queue of the same name
has to wait for that.
"""

import asyncio
from typing import Any

from service_runtime.amqp.lost_session import SessionLost
from service_runtime.amqp.session import AmqpSession


class Deletions:
    """Deletes queues side by side, on the next session too if this one is lost."""

    def __init__(self, log: Any) -> None:
        self._session: AmqpSession | None = None
        self._open: dict[str, asyncio.Task[None]] = {}
        self._log = log

    def resume(self, session: AmqpSession) -> None:
        """Go on with another session."""
        self._session = session
        for queue in tuple(self._open):
            self.begin(queue)

    def begin(self, queue: str) -> None:
        """Delete a queue; one that is not there is fine."""
        assert self._session is not None, "asked for on a session"
        self._open[queue] = asyncio.create_task(self._delete(self._session, queue))

    async def ended(self, *queues: str) -> None:
        """Wait for the deletion of these queues, or of all; those that nobody deletes are fine.

        If the session is lost meanwhile, there is nothing to wait for: the next begins anew.
        """
        for queue in queues or tuple(self._open):
            if queue in self._open:
                await self._open[queue]

    async def _delete(self, session: AmqpSession, queue: str) -> None:
        try:
            await session.delete(queue)
        except SessionLost as lost:
            if session.lost.done():
                return  # `resume` begins anew
            # The broker refuses, and asking again would not help: the queue stays until it expires.
            self._log.warning("broker.delete_refused", queue=queue, why=str(lost))
        self._open.pop(queue, None)

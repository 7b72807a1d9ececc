"""What a driver consumes, so that it can do so again, and where it stands in a stream.

AMQP 0-9-1 has no broker-side offsets (RabbitMQ: streams): the reader keeps its own.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from service_runtime.amqp.lost_session import SessionLost, TopologyMismatch
from service_runtime.amqp.session import AmqpSession, Offset
from service_runtime.amqp.streams import look_back
from vm_protocol import limits
from vm_protocol.topology import Mailbox, Queue

CLOCK_SKEW: Final = timedelta(minutes=1)
"""How far the broker's clock may be ahead of ours; records read for nothing are harmless."""


@dataclass(frozen=True, slots=True)
class Consumption:
    """One queue or mailbox and its prefetch; `begin` is a stream's."""

    queue: Queue | Mailbox
    prefetch: int
    begin: str | int = "first"

    @property
    def name(self) -> str:
        """Return the queue's name."""
        return self.queue.name

    @property
    def is_stream(self) -> bool:
        """Tell whether the queue is a stream."""
        return isinstance(self.queue, Queue) and self.queue.kind == "stream"


class Consumptions:
    """All that a driver consumes, by queue; what it forgets is not consumed again.

    `positions` are those of its streams: whoever steps a stream's delivery calls `positions.read`.
    """

    def __init__(self) -> None:
        self._known: dict[str, Consumption] = {}
        self.positions = StreamPositions()
        self._session: AmqpSession | None = None
        self._keeper: asyncio.Task[None] | None = None

    def all(self) -> tuple[Consumption, ...]:
        """Return them in the order in which they were asked for."""
        return tuple(self._known.values())

    def know(self, wanted: Consumption) -> None:
        """Learn what is to be consumed; nothing is begun yet."""
        self._known[wanted.name] = wanted

    def forget_all(self) -> None:
        """Take all queues out."""
        self._known.clear()

    def forget(self, queue: str) -> None:
        """Take a queue out; unknown names are fine."""
        self._known.pop(queue, None)

    async def start(self, session: AmqpSession, wanted: Consumption) -> Mailbox | None:
        """Consume from now on, over lost sessions too; return a mailbox that is not there."""
        name, queue = wanted.name, wanted.queue
        self._known[name] = wanted
        if session is not self._session:
            self._session = session
            self._keeper = asyncio.create_task(self._keep_bound(session))
        if isinstance(queue, Mailbox):
            # Only the manager declares mailboxes; consuming a missing one closes the channel.
            if not await session.exists(name):
                return queue
            await session.consume(name, wanted.prefetch)
            return None
        await session.declare(queue)
        offset = self.positions.start(name, wanted.begin) if wanted.is_stream else None
        if offset is not None and isinstance(wanted.begin, int):
            offset = await look_back(session, name, offset)
        await session.consume(name, wanted.prefetch, offset)
        return None

    async def _keep_bound(self, session: AmqpSession) -> None:
        """Bind queues again and again, as long as a session lasts: somebody may have unbound one.

        The broker tells nobody about an unbind; messages just stop to arrive. Binding again is
        harmless (RabbitMQ). Queues of the deployment are bound by the deployment.
        """
        with suppress(SessionLost, TopologyMismatch):
            while not session.lost.done():
                await asyncio.wait([session.lost], timeout=limits.BINDINGS_MS / 1000)
                for consumption in self.all():
                    queue = consumption.queue
                    is_wanted = consumption.name in self._known and not session.lost.done()
                    if is_wanted and isinstance(queue, Queue):
                        await session.declare(queue)


class StreamPositions:
    """Where each stream is read on from; only what a core has stepped counts as read."""

    def __init__(self) -> None:
        self._read: dict[str, int] = {}
        self._begun: dict[str, datetime] = {}

    def start(self, queue: str, begin: str | int) -> Offset:
        """Return where a reader attaches; `begin` is "first", "next" or a time in nanoseconds.

        A reader of "next" that has read nothing is attached again by time: "next" would then skip
        what came while it was away.
        """
        if queue in self._read:
            return self._read[queue] + 1
        if begin == "next" and queue in self._begun:
            return self._begun[queue] - CLOCK_SKEW
        self._begun.setdefault(queue, datetime.now(UTC))
        if isinstance(begin, int):
            return datetime.fromtimestamp(begin // 1_000_000_000, UTC) - CLOCK_SKEW
        return begin

    def read(self, queue: str, headers: Mapping[str, Any]) -> None:
        """Take a delivery as read; nothing to note unless its queue is a stream that we read."""
        offset = headers.get("x-stream-offset")
        if queue in self._begun and isinstance(offset, int):
            self._read[queue] = offset

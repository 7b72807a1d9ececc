"""Performs what a core asks for: records first, then its actions in order, on whatever session."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service_runtime.amqp.confirms import Batch, Outgoing, journal_batches
from service_runtime.amqp.publishing import Publishers
from service_runtime.amqp.queues import Queues
from service_runtime.amqp.session import AmqpSession
from service_runtime.passage import Passage
from service_runtime.timers import Timers
from vm_protocol import effects
from vm_protocol.actor import Plan
from vm_protocol.codec import Packet
from vm_protocol.recorder import Cause, Send
from vm_protocol.wire import Observe


@dataclass(slots=True)
class _Work:
    """An action that is still to be performed, in its batch; a timer that it sets keeps `cause`."""

    action: Send | effects.Deed
    batch: Batch
    cause: Cause


@dataclass(frozen=True, slots=True)
class Tools:
    """What a performer works with."""

    passage: Passage
    publishers: Publishers
    queues: Queues
    timers: Timers


class Performer:
    """Performs the plans that are let out; `returned` gets a message that cannot be published."""

    def __init__(self, tools: Tools, observe: Observe, returned: Callable[[Packet], None]) -> None:
        self._tools = tools
        self._observe = observe
        self._returned = returned
        self._work: deque[_Work] = deque()

    @property
    def is_busy(self) -> bool:
        """Tell whether something is still to be performed."""
        return bool(self._work)

    def forget(self) -> None:
        """Leave what is to be performed to whoever takes over."""
        self._work.clear()

    def let_out(self, batch: Batch, plans: Sequence[Plan]) -> None:
        """Publish the records of a batch, and queue its actions; no further ones join it.

        What is to be settled stands in the batch already.
        """
        for plan in plans:
            for action in plan.actions:
                if not isinstance(action, effects.Ack | effects.Reject):
                    self._work.append(_Work(action, batch, plan.cause))
                    batch.open_count += 1
        records = [record for plan in plans for record in plan.records]
        for record in records:
            self._observe(record)
        for outgoing in journal_batches(records):
            batch.open_count += 1
            self._tools.passage.reached("before records")
            self._tools.passage.leaving(outgoing, batch, self._tools.publishers.journal.publish)
            self._tools.passage.reached("after records")
        batch.seal()

    async def perform(self, session: AmqpSession) -> None:
        """Perform actions in order; one that fails with the session is performed on the next."""
        while self._work:
            work, reached = self._work[0], self._tools.passage.reached
            reached("before an effect")
            if isinstance(work.action, Send):
                self._work.popleft()
                self._send(work.action, work.batch)
            else:
                await self._perform(session, work.action, work.cause)
                self._work.popleft()
                work.batch.confirmed()
            reached("after an effect")

    def _send(self, send: Send, batch: Batch) -> None:
        """Publish a message; one that cannot be published is returned at once.

        Its exchange is not ours, or its key is too long, as a peer's `reply_to` may be. The broker
        would close the channel over it, again and again.
        """
        outgoing = Outgoing.of(send)
        if outgoing.is_possible:
            self._tools.passage.leaving(outgoing, batch, self._tools.publishers.messages.publish)
        else:
            self._returned(outgoing.packet)
            batch.confirmed()

    async def _perform(self, session: AmqpSession, deed: effects.Deed, cause: Cause) -> None:
        match deed:
            case effects.SetTimer():
                self._tools.timers.set(deed, cause)
            case effects.CancelTimer(name):
                self._tools.timers.cancel(name)
            case effects.Bind(mailbox) | effects.Unbind(mailbox):
                await self._tools.publishers.messages.requests_confirmed(mailbox.vm)
                await self._tools.queues.perform(session, deed)
            case _:
                await self._tools.queues.perform(session, deed)

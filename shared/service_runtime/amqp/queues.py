"""A driver's queues at its broker: declared, bound, consumed and deleted, on each session anew."""

from collections.abc import Callable
from typing import Any, assert_never

from service_runtime.amqp.cancellations import Cancellations
from service_runtime.amqp.consumption import Consumption, Consumptions
from service_runtime.amqp.deletions import Deletions
from service_runtime.amqp.mailboxes import Mailboxes
from service_runtime.amqp.session import AmqpSession
from vm_protocol import effects, limits
from vm_protocol.topology import Mailbox, parse_mailbox

QueueDeed = (
    effects.Consume
    | effects.ConsumeMailbox
    | effects.StopConsuming
    | effects.DeclareMailbox
    | effects.DeleteMailbox
    | effects.DeleteQueue
    | effects.Bind
    | effects.Unbind
)
"""What a core asks for that concerns a queue."""


class Queues:
    """A driver's queues at its broker; `tell` is called with a mailbox that is gone.

    `positions` are where its streams are read on from, `cancellations` the consumers that the
    broker has cancelled.
    """

    def __init__(
        self, log: Any, is_replicated: bool, tell: Callable[[effects.MailboxGone], None]
    ) -> None:
        self._is_replicated = is_replicated
        self._tell = tell
        self._mailboxes = Mailboxes()
        self._consumptions = Consumptions()
        self._deletions = Deletions(log)
        self.cancellations = Cancellations(log)
        self.positions = self._consumptions.positions

    @property
    def consumed_count(self) -> int:
        """Return how many queues are to be consumed."""
        return len(self._consumptions.all())

    async def perform(self, session: AmqpSession, deed: QueueDeed) -> None:
        """Do what a core asks for; to declare a mailbox waits until one of its name is deleted."""
        match deed:
            case effects.Consume(queue, prefetch, begin):
                await self._consume(session, Consumption(queue, prefetch, begin))
            case effects.ConsumeMailbox(mailbox):
                await self._consume(session, Consumption(mailbox, limits.MAILBOX_PREFETCH))
            case effects.StopConsuming(name):
                self._consumptions.forget(name)
                await session.stop_consuming(name)
            case effects.DeclareMailbox(mailbox):
                await self._deletions.ended(mailbox.name)
                await self._mailboxes.declare(session, mailbox)
            case effects.DeleteMailbox(mailbox):
                self._mailboxes.forget(mailbox)
                self._deletions.begin(mailbox.name)
            case effects.DeleteQueue(name):
                self._consumptions.forget(name)
                self._deletions.begin(name)
            case effects.Bind(mailbox):
                await self._mailboxes.bind(session, mailbox)
            case effects.Unbind(mailbox):
                await self._mailboxes.unbind(session, mailbox)
            case _:
                assert_never(deed)

    async def _consume(self, session: AmqpSession, wanted: Consumption) -> None:
        if missing := await self._consumptions.start(session, wanted):
            self._gone(missing)

    def _gone(self, mailbox: Mailbox) -> None:
        self._consumptions.forget(mailbox.name)
        self._tell(effects.MailboxGone(mailbox))

    # --- from session to session ---------------------------------------------------------

    async def restore(self, session: AmqpSession) -> None:
        """Declare and bind on a new session, before anything is published there."""
        self.cancellations.clear()
        await self._mailboxes.restore(session)

    async def resume(self, session: AmqpSession) -> None:
        """Go on deleting and consuming there."""
        self._deletions.resume(session)
        for consumption in self._consumptions.all():
            await self._consume(session, consumption)

    async def stop_consuming(self, session: AmqpSession) -> None:
        """Cancel all consumers but those of streams.

        After a cancel pika rejects what arrives, and a stream closes the connection over it.
        """
        for consumption in self._consumptions.all():
            if not consumption.is_stream:
                await session.stop_consuming(consumption.name)

    async def deleted(self) -> None:
        """Wait until no queue is being deleted any more."""
        await self._deletions.ended()

    # --- consumers that the broker cancels -----------------------------------------------

    def cancelled(self, queue: str) -> None:
        """Take a `basic.cancel`: of a classic mailbox only the deletion of the queue sends one."""
        mailbox = parse_mailbox(queue)
        if mailbox is not None and not self._is_replicated:
            self._gone(mailbox)
        else:
            self.cancellations.add(queue)

    async def look_at_cancelled(self, session: AmqpSession) -> None:
        """Find out which mailboxes are gone; over any other queue the session is given up."""
        for mailbox in await self.cancellations.look(session):
            self._gone(mailbox)

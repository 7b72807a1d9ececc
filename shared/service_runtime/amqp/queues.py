"""A driver's queues at its broker: declared, bound, consumed and deleted, on each session anew."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

from service_runtime.amqp.cancellations import Cancellations
from service_runtime.amqp.consumption import Consumption, Consumptions
from service_runtime.amqp.lost_session import SessionLost
from service_runtime.amqp.session import AmqpSession
from vm_protocol import effects, limits
from vm_protocol.recovery import Binding
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

    def forget(self) -> None:
        """Forget everything: whoever takes over is told by `know` what there is."""
        self._mailboxes = Mailboxes()
        self._consumptions.forget_all()
        self._deletions.forget()

    def know(
        self, bindings: Mapping[Mailbox, Binding], consumed: Iterable[effects.Consume]
    ) -> None:
        """Learn how mailboxes are bound and what is consumed, before `restore` and `resume`."""
        self._mailboxes.know(bindings)
        for each in consumed:
            self._consumptions.know(Consumption(each.queue, each.prefetch, each.begin))

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


class Deletions:
    """Deletes queues while everything else goes on, on the next session too if this one is lost.

    While a node of a cluster is away, the broker takes 5 s to delete one quorum queue (seen in
    3.10: it waits for all members), and a VM has one for each vCPU. Nothing but a new queue of the
    same name has to wait for that.
    """

    def __init__(self, log: Any) -> None:
        self._session: AmqpSession | None = None
        self._open: dict[str, asyncio.Task[None]] = {}
        self._log = log

    def resume(self, session: AmqpSession) -> None:
        """Go on with another session."""
        self._session = session
        for queue in tuple(self._open):
            self.begin(queue)

    def forget(self) -> None:
        """Leave what is being deleted to whoever takes over."""
        self._open.clear()

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


class Mailboxes:
    """Declares, binds and unbinds mailboxes, and restores all that on another session.

    A broker that is killed may forget what it has answered: of 30 nodes of RabbitMQ 3.10 that were
    killed within 8 ms of an unbind-ok, one came back with the binding. Requests would then reach a
    vCPU that is no longer in the array, which is what this project calls a use-after-free. So each
    new session binds or unbinds every mailbox again, before anything is published.
    """

    def __init__(self) -> None:
        self._bindings: dict[Mailbox, Binding] = {}

    def know(self, bindings: Mapping[Mailbox, Binding]) -> None:
        """Learn how mailboxes are bound."""
        self._bindings = dict(bindings)

    async def declare(self, session: AmqpSession, mailbox: Mailbox) -> None:
        """Declare a mailbox; nothing is bound to it yet, so nothing is lost by doing it again."""
        self._bindings[mailbox] = "not yet"
        await session.declare(mailbox.queue())

    async def bind(self, session: AmqpSession, mailbox: Mailbox) -> None:
        """Bind a declared mailbox."""
        await session.bind(mailbox)
        self._bindings[mailbox] = "bound"

    async def unbind(self, session: AmqpSession, mailbox: Mailbox) -> None:
        """Undo `bind`."""
        await session.unbind(mailbox)
        self._bindings[mailbox] = "unbound"

    def forget(self, mailbox: Mailbox) -> None:
        """Take out a mailbox that is being deleted; unknown ones are fine."""
        self._bindings.pop(mailbox, None)

    async def restore(self, session: AmqpSession) -> None:
        """Bring every mailbox to what the last session had reached.

        A mailbox that was bound and does not exist any more is not declared again: its requests are
        lost, and the worker that consumes it reports that.

        Raises:
            SessionLost: The session is lost meanwhile.
        """
        for mailbox, binding in tuple(self._bindings.items()):
            match binding:
                case "not yet":
                    await session.declare(mailbox.queue())
                case "bound":
                    # A mailbox that was bound and is gone took its requests with it; a new one
                    # would hide that.
                    if await session.exists(mailbox.name):
                        await session.bind(mailbox)
                # Again, as a killed node may have forgotten the unbind that it answered.
                case "unbound":
                    await session.unbind(mailbox)

"""The mailboxes that a driver has declared, and whether each has to be bound.

A broker that is killed may forget what it has answered: of 30 nodes of RabbitMQ 3.10 that were
killed within 8 ms of an unbind-ok, one came back with the binding. Requests would then reach a vCPU
that is no longer in the array, which is what this project calls a use-after-free. So each new
session binds or unbinds every mailbox again, before anything is published.
"""

from typing import Literal

from service_runtime.amqp.session import AmqpSession
from vm_protocol.topology import Mailbox

Binding = Literal["not yet", "bound", "unbound"]


class Mailboxes:
    """Declares, binds and unbinds mailboxes, and restores all that on another session."""

    def __init__(self) -> None:
        self._bindings: dict[Mailbox, Binding] = {}

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

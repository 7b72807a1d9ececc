"""Both channels on which a driver publishes: records go to the journal's, all else to the other.

Wherever both have something to do the journal's is first, as a record comes before what it tells.
"""

from service_runtime.amqp.publishing import Publishing
from service_runtime.amqp.session import AmqpSession


class Publishers:
    """What is published and not confirmed on either channel, and whether the broker lets us."""

    def __init__(self, actor: str) -> None:
        self.journal = Publishing(actor)
        self.messages = Publishing(actor)
        self._both = (self.journal, self.messages)

    def __len__(self) -> int:
        return len(self.journal) + len(self.messages)

    @property
    def is_refused(self) -> bool:
        """Tell whether the broker has refused something and has not confirmed it since."""
        return self.journal.is_refused or self.messages.is_refused

    @property
    def is_blocked(self) -> bool:
        """Tell whether the broker has said that it blocks publishers."""
        return self.messages.is_blocked

    def set_blocked(self, is_blocked: bool) -> None:
        """Take note that the broker blocks publishers, or does so no more."""
        for each in self._both:
            each.is_blocked = is_blocked

    def resume(self, session: AmqpSession) -> None:
        """Go on with another session: publish again what the last one left unconfirmed."""
        for each in self._both:
            each.resume(session)

    def wake(self) -> None:
        """Have whoever waits look again: the session may be lost."""
        for each in self._both:
            each.wake()

    async def all_confirmed(self) -> None:
        """Wait until nothing is unconfirmed.

        Raises:
            SessionLost: The broker cannot confirm any more.
        """
        for each in self._both:
            await each.all_confirmed()

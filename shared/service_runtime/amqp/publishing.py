"""What a driver has published and the broker has not confirmed yet, over lost sessions too.

The next session publishes it again: receivers know a repeated message by its id.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from service_runtime.amqp.confirms import Batch, ConfirmTracker, Outgoing, Publication
from service_runtime.amqp.lost_session import SessionLost
from service_runtime.amqp.session import AmqpSession
from vm_protocol import limits, topology


class Publishing:
    """Publishes on the driver's present session, and waits for its confirms.

    `is_refused`: the broker has refused something and has not confirmed it since. `is_blocked`: the
    broker has said that it blocks publishers, so the lack of confirms means nothing.
    """

    def __init__(self, actor: str) -> None:
        self._session: AmqpSession | None = None
        self._confirms = ConfirmTracker()
        self._seen = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        self.is_refused = False
        self.is_blocked = False
        self._log = structlog.get_logger(actor=actor)

    def __len__(self) -> int:
        return len(self._confirms)

    def publish(self, outgoing: Outgoing, batch: Batch) -> None:
        """Publish, or leave it to the next session: the tracker keeps it either way."""
        assert self._session is not None, "whoever publishes has had a session"
        self._confirms.published(outgoing, batch)
        if self._watch is None:
            self._look_later()
        # Nothing is lost with the session: the tracker has it, and resume() publishes it again.
        with suppress(SessionLost):
            self._session.publish(outgoing)

    def resume(self, session: AmqpSession) -> None:
        """Go on with another session: publish again what the last one left unconfirmed."""
        # A new channel numbers its publishes from 1 again.
        unconfirmed = self._confirms.unconfirmed()
        self._confirms = ConfirmTracker()
        self._session = session
        for outgoing, batch in unconfirmed:
            batch.refusal_count = 0
            self.publish(outgoing, batch)

    def forget(self) -> None:
        """Forget what is not confirmed, with the session that it was published on."""
        self._confirms = ConfirmTracker()
        self._session = None

    def confirmed(self, tag: int, multiple: bool, ok: bool) -> None:
        """Take a confirm; what the broker refuses is published again after a pause.

        If the broker refuses again and again, the session is given up: a channel of 3.10 that first
        published to a quorum queue while the queue's leader went refuses all that goes there, for
        ever.
        """
        if ok:
            self._confirms.confirmed(tag, multiple=multiple)
            self.is_refused = self.is_refused and bool(self._confirms)
        else:
            self._refused(self._confirms.refused(tag, multiple=multiple))
        self._seen.set()

    def _refused(self, refused: list[Publication]) -> None:
        assert self._session is not None, "refused by a session's broker"
        self.is_refused = True
        self._log.warning("broker.publish_refused", message_count=len(refused))
        if any(batch.refusal_count > limits.REFUSALS_MAX for _, batch in refused):
            self._session.abandon("it refuses what is published, again and again")
            return
        delay_s = limits.RECONNECT_MS_MIN / 1000
        asyncio.get_running_loop().call_later(delay_s, self._publish_again)

    def _publish_again(self) -> None:
        """Publish what was refused; after a lost session, `resume` has done so already."""
        for outgoing, batch in self._confirms.take_refused():
            self.publish(outgoing, batch)

    def _look_later(self) -> None:
        assert self._session is not None, "whoever publishes has had a session"
        loop, oldest = asyncio.get_running_loop(), self._confirms.oldest()
        delay_s = limits.CONFIRM_MS_MAX / 1000
        self._watch = loop.call_later(delay_s, self._look, self._session, oldest)

    def _look(self, session: AmqpSession, oldest: int | None) -> None:
        """Give up a session that has long said nothing of its oldest publish.

        A channel can miss that a stream has got another leader: then it waits for ever (3.10).
        """
        self._watch = None
        now = self._confirms.oldest()
        is_same = session is self._session and now == oldest
        if now is not None and is_same and not self.is_blocked:
            session.abandon(f"it does not confirm: {len(self._confirms)} publishes wait")
        elif now is not None:
            self._look_later()

    def wake(self) -> None:
        """Have whoever waits look again: the session may be lost."""
        self._seen.set()

    async def all_confirmed(self) -> None:
        """Wait until nothing is unconfirmed.

        Raises:
            SessionLost: The broker cannot confirm any more.
        """
        await self._until(lambda: not self._confirms)

    async def requests_confirmed(self, vm: str) -> None:
        """Wait until every request posted to a VM is confirmed.

        A request that is lost with a connection is published again: after a bind or unbind, it
        would reach other vCPUs than those that its generation was routed to.

        Raises:
            SessionLost: The broker cannot confirm any more.
        """
        await self._until(lambda: not self._confirms.awaits(topology.REQUESTS.name, vm))

    async def _until(self, is_true: Callable[[], bool]) -> None:
        session = self._session
        assert session is not None, "whoever waits has published"
        while not is_true():
            if session.lost.done():
                raise SessionLost(str(session.lost.result()))
            self._seen.clear()
            await self._seen.wait()


class Publishers:
    """What is published and not confirmed on each channel, and whether the broker lets us.

    Entries of a manager's log go to the channel of `progress`, records to the journal's, all else
    to the other. Wherever several have something to do the log's is first and the journal's next:
    an entry comes before what follows from it, and a record before what it tells.
    """

    def __init__(self, actor: str) -> None:
        self.progress = Publishing(actor)
        self.journal = Publishing(actor)
        self.messages = Publishing(actor)
        self._all = (self.progress, self.journal, self.messages)

    def __len__(self) -> int:
        return sum(len(each) for each in self._all)

    def of(self, stream: str) -> Publishing:
        """Return the one of a stream's channel, or of the other."""
        own = {topology.PROGRESS.name: self.progress, topology.RECORDS.name: self.journal}
        return own.get(stream, self.messages)

    def forget(self) -> None:
        """Forget what is not confirmed: whoever takes over publishes it."""
        for each in self._all:
            each.forget()

    @property
    def is_refused(self) -> bool:
        """Tell whether the broker has refused something and has not confirmed it since."""
        return any(each.is_refused for each in self._all)

    @property
    def is_blocked(self) -> bool:
        """Tell whether the broker has said that it blocks publishers."""
        return self.messages.is_blocked

    def set_blocked(self, is_blocked: bool) -> None:
        """Take note that the broker blocks publishers, or does so no more."""
        for each in self._all:
            each.is_blocked = is_blocked

    def resume(self, session: AmqpSession) -> None:
        """Go on with another session: publish again what the last one left unconfirmed."""
        for each in self._all:
            each.resume(session)

    def wake(self) -> None:
        """Have whoever waits look again: the session may be lost."""
        for each in self._all:
            each.wake()

    async def all_confirmed(self) -> None:
        """Wait until nothing is unconfirmed.

        Raises:
            SessionLost: The broker cannot confirm any more.
        """
        for each in self._all:
            await each.all_confirmed()

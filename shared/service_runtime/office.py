"""The office of the active manager: who has it, and how one who gets it takes over.

`manager.commands` has a single active consumer, so whoever is delivered anything from it is the
active manager (RabbitMQ: consumers, single active consumer). The broker does not tell a consumer
that it became active. So a manager that stands by sends a Candidacy there now and then: the first
that comes back tells it. Then it writes Elected, and folds the log up to there (docs/recovery.md).
"""

import asyncio
import secrets
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from service_runtime.amqp.confirms import Batch, Outgoing
from service_runtime.amqp.lost_session import SessionLost, TopologyMissing
from service_runtime.amqp.publishing import Publishers
from service_runtime.amqp.session import AmqpSession
from service_runtime.amqp.streams import message_count, read_last, read_stream
from service_runtime.progress_log import ProgressLog, outgoing
from vm_protocol import limits, progress
from vm_protocol.actor import Actor
from vm_protocol.codec import Packet
from vm_protocol.effects import Input, Started, TookOver
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.gauges import GaugeRow
from vm_protocol.progress import NOWHERE, Elected, LogEntry, Position
from vm_protocol.recovery import WAY_OUT, LogBroken, Recovery
from vm_protocol.topology import COMMANDS, PROGRESS_QUEUE, Queue
from vm_protocol.trust import Role, without_epoch

_PATIENCE_S: Final = 2 * limits.CONFIRM_MS_MAX / 1000
"""How long nothing may come out of the log before our own Elected does."""

CANDIDACY: Final = "Candidacy"
"""Type of the message by which a manager asks for the office; it has no body, and is no core's."""


@dataclass(slots=True)
class OfficeNumbers:
    """What metrics show of an office; written by its driver alone, read from any thread."""

    is_active: bool = False
    takeover_count: int = 0
    entry_count: int = 0
    recovery_s: float = 0.0
    folded_count: int = 0


OFFICE_COUNTERS: Final = (
    GaugeRow(
        "teardown_manager_takeovers",
        "Elections of this manager that followed another's or its own, as after a lost connection",
        lambda numbers: numbers.takeover_count,
    ),
    GaugeRow(
        "teardown_log_entries",
        "Entries that this manager has written to teardown.progress",
        lambda numbers: numbers.entry_count,
    ),
)
OFFICE_GAUGES: Final = (
    GaugeRow(
        "teardown_manager_elected",
        "1 while this manager is the active one",
        lambda numbers: float(numbers.is_active),
    ),
    GaugeRow(
        "teardown_recovery_seconds",
        "How long this manager took at its last election to read the log and fold it",
        lambda numbers: numbers.recovery_s,
    ),
    GaugeRow(
        "teardown_recovery_entries",
        "Entries that it folded then",
        lambda numbers: numbers.folded_count,
    ),
)
"""Counters and gauges of a manager's office, read at each scrape."""


class Office:
    """Asks for the office of `queue`'s single active consumer, and takes it over.

    `log` is that of the present tenure, None while standing by. Without `writes_ahead` the log gets
    no entries: only a benchmark asks for that.
    """

    def __init__(self, actor: Actor[Any], queue: Queue, prefetch: int) -> None:
        self._actor = actor
        self._queue = queue
        self._prefetch = prefetch
        self._called = asyncio.Event()
        self._asking: Batch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._logger = structlog.get_logger(actor=without_epoch(actor.core.actor))
        self.log: ProgressLog | None = None
        self.writes_ahead = True
        self.numbers = OfficeNumbers()

    @property
    def queue(self) -> str:
        """Return the name of the queue whose single active consumer has the office."""
        return self._queue.name

    # --- standing by -------------------------------------------------------------------------

    def leave(self) -> None:
        """Stand by from now on: the session is lost, and with it the office."""
        if self.log is not None:
            self.log.end()
        if self._watching is not None:
            self._watching.cancel()
        self.log = self._watching = self._asking = None
        self._called.clear()
        self.numbers.is_active = False

    def delivered(self, session: AmqpSession, queue: str, tag: int, packet: Packet) -> bool:
        """Take note of a delivery, which only the active consumer gets; tell if it was no more."""
        if queue != self._queue.name:
            return False
        self._called.set()
        if packet.properties.get("type") != CANDIDACY:
            return False
        session.ack(tag)
        return True

    async def stand_by(self, session: AmqpSession) -> None:
        """Begin to consume.

        Raises:
            TopologyMissing: The deployment has not made the queue, or the log.
            SessionLost: The session is lost meanwhile.
        """
        await session.declare(self._queue)
        await session.consume(self._queue.name, self._prefetch)
        if not await session.exists(PROGRESS_QUEUE.name):
            raise TopologyMissing(f"no service and no definitions made {PROGRESS_QUEUE.name}")

    async def called(self, session: AmqpSession, publishers: Publishers) -> None:
        """Wait until the office is ours; a cancelled wait is fine.

        Raises:
            SessionLost: The session is lost meanwhile.
        """
        while not self._called.is_set():
            self._ask(publishers)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._called.wait(), limits.CANDIDACY_MS / 1000)
            if session.lost.done():
                raise SessionLost(str(session.lost.result()))

    def _ask(self, publishers: Publishers) -> None:
        """Send a candidacy, unless the last one is still on its way: the broker may be blocked."""
        if self._asking is not None and not self._asking.settled:
            return
        self._asking = Batch(lambda: None, open_count=1)
        self._asking.seal()
        packet = Packet(b"", {"type": CANDIDACY}, {})
        candidacy = Outgoing(COMMANDS.name, self._queue.name, packet, mandatory=False)
        publishers.messages.publish(candidacy, self._asking)

    # --- taking over -------------------------------------------------------------------------

    async def take(self, session: AmqpSession, publishers: Publishers) -> Recovery:
        """Write Elected, fold the log up to there, and begin a log of our own.

        Raises:
            SessionLost: The session is lost meanwhile.
            LogBroken: The log lacks the beginning of what lives.
        """
        begun_s = time.monotonic()
        begin, alive = await self._begin(session)
        candidate = secrets.token_hex(8)
        elected = Batch(lambda: None, open_count=1)
        elected.seal()
        message = Elected(candidate=candidate, alive_from=begin, alive=alive)
        publishers.progress.publish(outgoing(message), elected)
        if begin is None:
            begin, alive = await self._search(session, candidate)
        recovery = Recovery(self._actor, begin, alive)
        await self._fold(session, recovery, candidate)
        self.log = ProgressLog(self._actor, publishers.progress, recovery)
        self.log.on_entry = self._count
        self.log.writes_ahead = self.writes_ahead
        for pending in recovery.pending:
            self.log.performances.begin(pending.position)
        self._watching = asyncio.create_task(self._watch(session, recovery.epoch))
        self.numbers.is_active = True
        self.numbers.recovery_s = time.monotonic() - begun_s
        self.numbers.folded_count = recovery.entry_count
        self.numbers.takeover_count += bool(recovery.ended)
        self._logger.info(
            "manager.elected",
            epoch=recovery.epoch,
            entry_count=recovery.entry_count,
            repeated_count=recovery.repeated_count,
            seconds=round(self.numbers.recovery_s, 3),
        )
        return recovery

    def _count(self) -> None:
        self.numbers.entry_count += 1

    async def _begin(self, session: AmqpSession) -> tuple[int | None, Position]:
        """Return the offset from which VMs live and the entry there, as the end of the log says.

        A count of 0 says little: for some seconds after its start a broker has not counted yet.
        """
        if await message_count(session, PROGRESS_QUEUE.name) == 0:
            return None, NOWHERE
        _, packet = await read_last(session, PROGRESS_QUEUE.name)
        message = self._read(packet)
        return (None, NOWHERE) if message is None else (message.alive_from, message.alive)

    async def _search(self, session: AmqpSession, candidate: str) -> tuple[int, Position]:
        """Return the same, as the last message before our own Elected says that knows it."""
        found: tuple[int, Position] | None = None
        async with aclosing(read_stream(session, PROGRESS_QUEUE.name, "first", _PATIENCE_S)) as log:
            async for offset, packet in log:
                message = self._read(packet)
                if message is None:
                    continue
                if isinstance(message, Elected) and message.candidate == candidate:
                    return found or (offset, NOWHERE)
                if message.alive_from is not None:
                    found = message.alive_from, message.alive
                elif found is None:
                    found = offset, NOWHERE  # the first Elected of all
        raise SessionLost("the managers' log has ended")

    async def _fold(self, session: AmqpSession, recovery: Recovery, candidate: str) -> None:
        async with aclosing(
            read_stream(session, PROGRESS_QUEUE.name, recovery.begin, _PATIENCE_S)
        ) as log:
            async for offset, packet in log:
                recovery.begins(offset)
                message = self._read(packet)
                if message is None:
                    continue
                recovery.read(offset, message)
                if isinstance(message, Elected) and message.candidate == candidate:
                    return

    def _read(self, packet: Packet) -> Elected | LogEntry | None:
        """Return what a message says; None: its user may not write there.

        Raises:
            LogBroken: A manager has written it, and it cannot be read.
        """
        user = packet.properties.get("user_id")
        try:
            self._actor.trust.check_role(Role.MANAGER, user)
        except RemoteProtocolError as error:
            self._logger.warning("manager.log_skipped", user=user, why=str(error))
            return None
        try:
            packet.check_readable()
            return progress.read_log_message(packet.body)
        except RemoteProtocolError as error:
            raise LogBroken(
                f"a message of {PROGRESS_QUEUE.name} cannot be read ({error}): {WAY_OUT}"
            ) from None

    async def _watch(self, session: AmqpSession, epoch: int) -> None:
        """Give the session up when the log says that somebody else was elected meanwhile."""
        while not session.lost.done():
            await asyncio.wait([session.lost], timeout=limits.OFFICE_LOOK_MS / 1000)
            try:
                offset, packet = await read_last(session, PROGRESS_QUEUE.name)
                message = self._read(packet)
            except SessionLost:
                continue  # this one reader's end, or the session's
            except LogBroken as broken:
                session.abandon(str(broken))
                return
            newest = message.epoch if isinstance(message, LogEntry) else progress.epoch_at(offset)
            if message is not None and newest > epoch:
                session.abandon(f"a manager of epoch {newest} was elected")

    def first_inputs(self, recovery: Recovery) -> tuple[Input, ...]:
        """Return what a tenure begins with: whom it follows, and that it starts."""
        started = Started(time.time_ns())
        # One that was elected and wrote nothing has done nothing either.
        before = [each for each in recovery.ended if each[1]]
        if not before:
            return (started,)
        epoch, entry, seq = before[-1]
        return TookOver(epoch, entry, seq, recovery.repeated_count), started

"""RabbitDriver: runs an actor's core on RabbitMQ; docs/driver.md is its theory of operation.

One batch covers all handlers that run on one socket read. Its journal records are published first,
on a channel of their own, then its effects in order; acks and rejects wait until all of that is
confirmed. After a lost connection the driver declares and consumes everything again, publishes
again what was not confirmed, and performs the actions that were left. It decides nothing itself.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from time import time_ns
from typing import Any, assert_never

import structlog

from service_runtime.amqp.cancellations import Cancellations
from service_runtime.amqp.confirms import Batch, Outgoing, journal_batches
from service_runtime.amqp.consumption import Consumption, Consumptions
from service_runtime.amqp.deletions import Deletions
from service_runtime.amqp.endpoint import Endpoint
from service_runtime.amqp.known_problems import known_problems
from service_runtime.amqp.lost_session import SessionLost, TopologyMissing
from service_runtime.amqp.mailboxes import Mailboxes
from service_runtime.amqp.publishing import Publishing
from service_runtime.amqp.reconnecting import Reconnecting
from service_runtime.amqp.session import AmqpSession
from service_runtime.amqp.settlements import HeldDeliveries, Settlements
from service_runtime.gate import Gate
from service_runtime.stop_in_time import until_stopped
from service_runtime.timers import Timers
from vm_protocol import codec, effects, limits
from vm_protocol.actor import Actor, Plan
from vm_protocol.codec import Packet
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.intake import Delivery
from vm_protocol.recorder import NO_CAUSE, Cause, Send
from vm_protocol.topology import Mailbox, parse_mailbox
from vm_protocol.wire import Observe, Record

Handler = Callable[[], Plan]


@dataclass(slots=True)
class _Work:
    """An action that is still to be performed, in its batch; `cause` is what timers remember."""

    action: Send | effects.Deed
    batch: Batch
    cause: Cause


class RabbitDriver:
    """Drives one actor over connections to one broker, until told to stop or `is_done`.

    A `gate` holds deliveries and timers back: only a replay has one.
    """

    def __init__(
        self,
        actor: Actor[Any],
        endpoint: Endpoint,
        observe: Observe,
        is_done: Callable[[], bool] = lambda: False,
        gate: Gate | None = None,
    ) -> None:
        self._actor = actor
        self._gate = gate
        self._is_done = is_done
        self._endpoint = endpoint
        self._observe = observe
        self._log = structlog.get_logger(actor=actor.core.actor)
        self._inbox: deque[Handler] = deque()
        self._work: deque[_Work] = deque()
        self._wake = asyncio.Event()
        self._session: AmqpSession | None = None
        self._publishing = Publishing(actor.core.actor)
        self._journal = Publishing(actor.core.actor)
        self._deletions = Deletions(actor.core.actor)
        self._mailboxes = Mailboxes()
        self._consumptions = Consumptions()
        self._held = HeldDeliveries()
        self._cancellations = Cancellations(self._log)
        self._timers = Timers(self.fire, lambda: bool(self._inbox or self._work))
        self._numbers = count()
        self._stopping = asyncio.Event()
        self.connected = asyncio.Event()
        self._ready = asyncio.Event()
        self.broker_version = "unknown"
        self.reconnect_count = 0
        self.is_blocked = False

    # --- what metrics and health read ------------------------------------------------------

    @property
    def actor_name(self) -> str:
        """Return the name of the actor that is driven."""
        return self._actor.core.actor

    @property
    def state(self) -> Any:
        """Return the core's present state; frozen, so any thread may read it."""
        return self._actor.state

    @property
    def unconfirmed_count(self) -> int:
        """Return how many publishes the broker has not confirmed yet."""
        return len(self._publishing) + len(self._journal)

    @property
    def cancelled_count(self) -> int:
        """Return how many consumers the broker has cancelled whose queue is still there."""
        return self._cancellations.count

    @property
    def is_connected(self) -> bool:
        """Tell whether a session is up, with everything consumed that was asked for."""
        return self.connected.is_set()

    # --- life ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect and work until `stop` is called, reconnecting with back-off.

        Raises:
            TopologyMismatch: The broker holds our queues with other arguments; nothing helps.
            TopologyMissing: The broker has never been given the topology that it was to have.
        """
        started = effects.Started(time_ns())
        self._enqueue(lambda: self._actor.handle(started, NO_CAUSE, time_ns()))
        grace_s = limits.SHUTDOWN_MS / 1000
        if not await until_stopped(self._work_on_sessions(), self._stopping, grace_s):
            self._log.warning("broker.unanswered", unconfirmed_count=self.unconfirmed_count)

    async def _work_on_sessions(self) -> None:
        reconnecting = Reconnecting(self._endpoint, self._actor.core.actor)
        while not self._stopping.is_set():
            endpoint = reconnecting.next_endpoint()
            session = AmqpSession(endpoint, self._actor.core.actor, self)
            pause_ms = 0
            try:
                await session.open()
                await self._resume(session)
                await self._serve(session, reconnecting)
            except SessionLost as lost:
                if session.bug is not None:
                    raise session.bug from None
                if isinstance(lost, TopologyMissing) and not self._ready.is_set():
                    raise
                self._cancellations.note(lost)
                pause_ms = reconnecting.pause_ms()
                if not self._stopping.is_set():
                    where, why = endpoint.host, str(lost)
                    self._log.warning(
                        "broker.connection_lost", host=where, why=why, retry_ms=pause_ms
                    )
                    self.reconnect_count += 1
            finally:
                self.connected.clear()
                self._timers.suspend("no session")
                self._set_blocked(False)
                await session.close()
            await self._pause(pause_ms)

    def stop(self) -> None:
        """End `run` after open confirms have arrived; SHUTDOWN_MS later it gives them up."""
        self._stopping.set()
        self._ready.set()
        self._wake.set()

    async def wait_ready(self) -> bool:
        """Wait until the first connection is up and its consumers run; False: stopped before."""
        await self._ready.wait()
        return not self._stopping.is_set()

    async def _pause(self, backoff_ms: int) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), backoff_ms / 1000)

    async def _resume(self, session: AmqpSession) -> None:
        """Restore on a new session what the last one held; old delivery tags are void."""
        self._held.clear()
        self._cancellations.clear()
        self._session = session
        self.broker_version = session.broker_version
        self._log.info("broker.connected", broker=self.broker_version)
        for why in known_problems(self.broker_version):
            self._log.warning("broker.known_problem", broker=self.broker_version, why=why)
        await self._mailboxes.restore(session)
        self._journal.resume(session)
        self._publishing.resume(session)
        self._deletions.resume(session)
        for consumption in self._consumptions.all():
            await self._consume(session, consumption)
        self._timers.resume("no session")
        self.connected.set()
        self._log.info("broker.consuming", queue_count=len(self._consumptions.all()))

    async def _serve(self, session: AmqpSession, reconnecting: Reconnecting) -> None:
        """Work on what arrives until the session is lost or the service stops."""
        session.lost.add_done_callback(self._stir)
        while not self._stopping.is_set():
            if session.lost.done():
                raise SessionLost(str(session.lost.result()))
            await self._perform_work(session)
            if not (self._publishing.is_refused or self._journal.is_refused):
                reconnecting.caught_up()
            if self._consumptions.all():
                self._ready.set()
            if self._is_done():
                self.stop()
                break
            if not self._inbox:
                await self._wake.wait()
            self._wake.clear()
            for mailbox in await self._cancellations.look(session):
                self._gone(mailbox)
            self._step_inbox()
        await self._finish(session)

    async def _finish(self, session: AmqpSession) -> None:
        for consumption in self._consumptions.all():
            # After a cancel pika rejects what arrives, and a stream closes the connection over it.
            if not consumption.is_stream:
                await session.stop_consuming(consumption.name)
        await self._perform_work(session)
        await self._journal.all_confirmed()
        await self._publishing.all_confirmed()
        await self._deletions.ended()

    def _stir(self, *_: Any) -> None:
        """Wake whatever waits: the session is lost."""
        self._wake.set()
        self._journal.wake()
        self._publishing.wake()

    # --- stepping ------------------------------------------------------------------------

    def _enqueue(self, handler: Handler) -> None:
        self._inbox.append(handler)
        self._wake.set()

    def _step_inbox(self) -> None:
        """Run the core on everything that has arrived; publish the records, queue the actions."""
        if not self._inbox:
            return
        settlements = Settlements()
        settle = settlements.perform
        batch = Batch(settle if self._gate is None else self._gate.after(settle))
        records: list[Record] = []
        while self._inbox:
            plan = self._inbox.popleft()()
            records += plan.records
            for action in plan.actions:
                if isinstance(action, effects.Settle):
                    settlements.settled += [(tag, action) for tag in self._held.release(action)]
                else:
                    self._work.append(_Work(action, batch, plan.cause))
                    batch.open_count += 1
        for record in records:
            self._observe(record)
        for outgoing in journal_batches(records):
            batch.open_count += 1
            self._journal.publish(outgoing, batch)
        batch.seal()

    # --- performing ----------------------------------------------------------------------

    async def _perform_work(self, session: AmqpSession) -> None:
        """Perform actions in order; one that fails with the session is performed on the next."""
        while self._work:
            work = self._work[0]
            if isinstance(work.action, Send):
                self._work.popleft()
                self._send(work.action, work.batch)
                continue
            await self._perform(session, work.action, work.cause)
            self._work.popleft()
            work.batch.confirmed()

    def _send(self, send: Send, batch: Batch) -> None:
        """Publish a message; one for an exchange that is not ours is returned at once.

        A peer may have named it, and the broker would close the channel over it, again and again.
        """
        outgoing = Outgoing.of(send)
        if outgoing.is_possible:
            self._publishing.publish(outgoing, batch)
        else:
            self.returned(outgoing.packet)
            batch.confirmed()

    async def _perform(self, session: AmqpSession, deed: effects.Deed, cause: Cause) -> None:
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
                await self._publishing.requests_confirmed(mailbox.vm)
                await self._mailboxes.bind(session, mailbox)
            case effects.Unbind(mailbox):
                await self._publishing.requests_confirmed(mailbox.vm)
                await self._mailboxes.unbind(session, mailbox)
            case effects.SetTimer() as wanted:
                self._timers.set(wanted, cause)
            case effects.CancelTimer(name):
                self._timers.cancel(name)
            case _:
                assert_never(deed)

    async def _consume(self, session: AmqpSession, wanted: Consumption) -> None:
        if missing := await self._consumptions.start(session, wanted):
            self._gone(missing)

    def fire(self, name: str, cause: Cause = NO_CAUSE) -> None:
        """Tell the core that a timer has fired; also one that somebody outside keeps."""

        def take(_is_copy: bool = False) -> Plan:
            return self._actor.handle(effects.TimerFired(name), cause, time_ns())

        if self._gate is None:
            self._enqueue(take)
        else:
            self._gate.fired(name, take, self._enqueue)

    def _gone(self, mailbox: Mailbox) -> None:
        self._consumptions.forget(mailbox.name)
        self._enqueue(lambda: self._actor.handle(effects.MailboxGone(mailbox), NO_CAUSE, time_ns()))

    # --- what the session tells (session_events.Events) ----------------------------------------

    def delivered(self, queue: str, tag: int, packet: Packet, redelivered: bool) -> None:
        """Take a delivery; it is stepped with all others of this socket read."""
        session = self._session
        assert session is not None, "deliveries come from a session"
        delivery = Delivery(queue, packet, redelivered, next(self._numbers))
        self._timers.stir()

        def take(is_copy: bool = False) -> Plan:
            if self._session is not session:
                return Plan()  # the broker delivers it again
            self._consumptions.read(queue, packet.headers)
            plan = self._actor.deliver(delivery, time_ns())
            if not is_copy:
                self._held.hold(queue, plan.key, (session, tag))
            return plan

        if self._gate is None:
            self._enqueue(take)
        else:
            self._gate.arrived(queue, packet, take, self._enqueue)

    def confirmed(self, tag: int, multiple: bool, ok: bool, *, of_journal: bool) -> None:
        """Take a confirm."""
        (self._journal if of_journal else self._publishing).confirmed(tag, multiple, ok)

    def returned(self, packet: Packet) -> None:
        """Take back a mandatory message that matched no queue."""
        try:
            message, envelope = codec.decode(packet)
        except RemoteProtocolError:
            return  # what we sent we can read; records are not mandatory
        cause = Cause(envelope.caused_by, envelope.traceparent, envelope.lamport)
        self._enqueue(lambda: self._actor.handle(effects.Returned(message), cause, time_ns()))

    def cancelled(self, queue: str) -> None:
        """Take a `basic.cancel`: of a classic mailbox only the deletion of the queue sends one."""
        mailbox = parse_mailbox(queue)
        if mailbox is not None and not self._endpoint.is_replicated:
            self._gone(mailbox)
        else:
            self._cancellations.add(queue)
            self._wake.set()

    def blocked(self, is_blocked: bool) -> None:
        """Take note that the broker blocks or unblocks publishers."""
        self._set_blocked(is_blocked)
        self._log.warning("broker.blocked" if is_blocked else "broker.unblocked")

    def _set_blocked(self, is_blocked: bool) -> None:
        self._journal.is_blocked = self._publishing.is_blocked = self.is_blocked = is_blocked
        (self._timers.suspend if is_blocked else self._timers.resume)("blocked")

"""RabbitDriver: runs an actor's core on RabbitMQ; docs/driver.md is its theory of operation.

One batch covers all handlers that run together, usually those of one socket read. Its journal
records are published first, on a channel of their own, then its effects in order; acks and rejects
wait until all of that is confirmed. After a lost connection the driver declares and consumes
everything again, publishes again what was not confirmed, and performs the actions that were left.
It decides nothing itself.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from time import time_ns
from typing import Any

import structlog

from service_runtime.amqp.confirms import Batch, Outgoing, journal_batches
from service_runtime.amqp.endpoint import Endpoint
from service_runtime.amqp.known_problems import known_problems
from service_runtime.amqp.lost_session import Reconnecting, SessionLost, TopologyMissing
from service_runtime.amqp.publishing import Publishers
from service_runtime.amqp.queues import Queues
from service_runtime.amqp.session import AmqpSession
from service_runtime.amqp.settlements import HeldDeliveries, Settlements
from service_runtime.connectivity import Connectivity
from service_runtime.passage import DIRECT, Handler, Passage
from service_runtime.stop_in_time import until_stopped
from service_runtime.timers import Timers
from vm_protocol import codec, effects, limits, messages
from vm_protocol.actor import Actor, Plan
from vm_protocol.codec import Packet
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.intake import Delivery
from vm_protocol.recorder import NO_CAUSE, Cause, Send
from vm_protocol.timers import LEASES
from vm_protocol.wire import Observe, Record


@dataclass(slots=True)
class _Work:
    """An action that is still to be performed, in its batch; a timer that it sets keeps `cause`."""

    action: Send | effects.Deed
    batch: Batch
    cause: Cause


class RabbitDriver:
    """Drives one actor over connections to one broker, until told to stop or `is_done`."""

    def __init__(
        self,
        actor: Actor[Any],
        endpoint: Endpoint,
        observe: Observe,
        is_done: Callable[[], bool] = lambda: False,
        passage: Passage = DIRECT,
    ) -> None:
        self._actor = actor
        self._passage = passage
        self._is_done = is_done
        self._endpoint = endpoint
        self._observe = observe
        self._log = structlog.get_logger(actor=actor.core.actor)
        self._inbox: deque[Handler] = deque()
        self._work: deque[_Work] = deque()
        self._wake = asyncio.Event()
        self._session: AmqpSession | None = None
        self._publishers = Publishers(actor.core.actor)
        self._queues = Queues(self._log, endpoint.is_replicated, self._arrived)
        self._held = HeldDeliveries()
        self._timers = Timers(self.fire, lambda: bool(self._inbox or self._work))
        self._numbers = count()
        self._stopping = asyncio.Event()
        self._ready = asyncio.Event()
        self.connectivity = Connectivity(self._publishers, self._queues)

    # --- life ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect and work until `stop` is called, reconnecting with back-off.

        Raises:
            TopologyMismatch: The broker holds our queues with other arguments; nothing helps.
            TopologyMissing: The broker has never been given the topology that it was to have.
            EndpointError: The broker's URL cannot be used.
        """
        self._arrived(effects.Started(time_ns()))
        grace_s = limits.SHUTDOWN_MS / 1000
        if not await until_stopped(self._work_on_sessions(), self._stopping, grace_s):
            self._log.warning("broker.unanswered", unconfirmed_count=len(self._publishers))

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
                self._queues.cancellations.note(lost)
                pause_ms = reconnecting.pause_ms()
                if not self._stopping.is_set():
                    where, why = endpoint.host, str(lost)
                    self._log.warning(
                        "broker.connection_lost", host=where, why=why, retry_ms=pause_ms
                    )
                    self.connectivity.reconnect_count += 1
            finally:
                self.connectivity.is_connected = False
                self._timers.suspend("no session")
                self._set_blocked(False)
                await session.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_ms / 1000)

    def leave(self, is_at_rest: Callable[[], bool]) -> None:
        """Tell the core that it is to end; stop once it is at rest, at the latest in DRAIN_MS."""
        if is_at_rest():
            self.stop()
            return
        self._is_done = is_at_rest
        self._arrived(effects.Leaving())
        drain_s = limits.DRAIN_MS / 1000 if self.connectivity.is_connected else 0
        asyncio.get_running_loop().call_later(drain_s, self.stop)

    def stop(self) -> None:
        """End `run` after open confirms have arrived; SHUTDOWN_MS later it gives them up."""
        self._stopping.set()
        self._ready.set()
        self._wake.set()

    async def wait_ready(self) -> bool:
        """Wait until the first connection is up and its consumers run; False: stopped before."""
        await self._ready.wait()
        return not self._stopping.is_set()

    async def _resume(self, session: AmqpSession) -> None:
        """Restore on a new session what the last one held; old delivery tags are void."""
        self._held.clear()
        self._session = session
        self.connectivity.broker_version = broker = session.broker_version
        self._log.info("broker.connected", broker=broker)
        for why in known_problems(broker):
            self._log.warning("broker.known_problem", broker=broker, why=why)
        await self._queues.restore(session)
        self._publishers.resume(session)
        await self._queues.resume(session)
        self._timers.resume("no session")
        self.connectivity.is_connected = True
        self._log.info("broker.consuming", queue_count=self._queues.consumed_count)

    async def _serve(self, session: AmqpSession, reconnecting: Reconnecting) -> None:
        """Work on what arrives until the session is lost or the service stops."""
        session.lost.add_done_callback(self._stir)
        while not self._stopping.is_set():
            if session.lost.done():
                raise SessionLost(str(session.lost.result()))
            await self._perform_work(session)
            if not self._publishers.is_refused:
                reconnecting.caught_up()
            if self._queues.consumed_count:
                self._ready.set()
            if self._is_done():
                self.stop()
                break
            if not self._inbox:
                await self._wake.wait()
            self._wake.clear()
            await self._queues.look_at_cancelled(session)
            self._step_inbox()
        await self._finish(session)

    async def _finish(self, session: AmqpSession) -> None:
        await self._queues.stop_consuming(session)
        await self._perform_work(session)
        await self._publishers.all_confirmed()
        await self._queues.deleted()

    def _stir(self, *_: Any) -> None:
        """Wake whatever waits: the session is lost."""
        self._wake.set()
        self._publishers.wake()

    # --- what comes in: handlers that step the core --------------------------------------

    def delivered(self, queue: str, tag: int, packet: Packet, redelivered: bool) -> None:
        """Take a delivery; it is stepped with all others that arrived meanwhile."""
        session = self._session
        assert session is not None, "deliveries come from a session"
        delivery = Delivery(queue, packet, redelivered, next(self._numbers))
        self._timers.stir(packet)

        def take(is_copy: bool = False) -> Plan:
            if self._session is not session:
                return Plan()  # the broker delivers it again
            self._queues.positions.read(queue, packet.headers)
            plan = self._actor.deliver(delivery, time_ns())
            if not is_copy:
                self._held.hold(queue, plan.key, (session, tag))
            return plan

        if packet.properties.get("type") in messages.SIGNS_OF_LIFE:
            self.enqueue(take)
        else:
            self._passage.arrived(queue, packet, take, self.enqueue)

    def returned(self, packet: Packet) -> None:
        """Take back a mandatory message that matched no queue."""
        try:
            message, envelope = codec.decode(packet)
        except RemoteProtocolError:
            return  # what we sent we can read; records are not mandatory
        cause = Cause(envelope.caused_by, envelope.traceparent, envelope.lamport)
        self._arrived(effects.Returned(message), cause)

    def cancelled(self, queue: str) -> None:
        """Take a `basic.cancel`."""
        self._queues.cancelled(queue)
        self._wake.set()

    def fire(self, timer: effects.SetTimer, cause: Cause) -> None:
        """Tell the core that a timer has fired; an urgent one before all that waits.

        Who lives is no part of what passes: nobody holds back the timers of leases.
        """

        def take(is_copy: bool = False) -> Plan:
            return self._actor.handle(effects.TimerFired(timer.name), cause, time_ns())

        if timer.urgent:
            self._inbox.appendleft(take)
            self._wake.set()
        elif timer.name.partition("/")[0] in LEASES:
            self.enqueue(take)
        else:
            self._passage.fired(timer.name, take, self.enqueue)

    def _arrived(self, event: effects.Input, cause: Cause = NO_CAUSE) -> None:
        self.enqueue(lambda: self._actor.handle(event, cause, time_ns()))

    def enqueue(self, handler: Handler) -> None:
        """Put a handler into the inbox: the passage does so, and whoever tells the actor more."""
        self._inbox.append(handler)
        self._wake.set()

    # --- stepping ------------------------------------------------------------------------

    def _step_inbox(self) -> None:
        """Run the core on everything that has arrived; publish the records, queue the actions."""
        if not self._inbox:
            return
        settlements = Settlements()
        batch = Batch(self._passage.settling(settlements))
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
            self._passage.leaving(outgoing, batch, self._publishers.journal.publish)
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
        """Publish a message; one that cannot be published is returned at once.

        Its exchange is not ours, or its key is too long, as a peer's `reply_to` may be. The broker
        would close the channel over it, again and again.
        """
        outgoing = Outgoing.of(send)
        if outgoing.is_possible:
            self._passage.leaving(outgoing, batch, self._publishers.messages.publish)
        else:
            self.returned(outgoing.packet)
            batch.confirmed()

    async def _perform(self, session: AmqpSession, deed: effects.Deed, cause: Cause) -> None:
        match deed:
            case effects.SetTimer():
                self._timers.set(deed, cause)
            case effects.CancelTimer(name):
                self._timers.cancel(name)
            case effects.Bind(mailbox) | effects.Unbind(mailbox):
                await self._publishers.messages.requests_confirmed(mailbox.vm)
                await self._queues.perform(session, deed)
            case _:
                await self._queues.perform(session, deed)

    # --- what the broker says of our publishes -------------------------------------------

    def confirmed(self, tag: int, multiple: bool, ok: bool, *, of_journal: bool) -> None:
        """Take a confirm."""
        publishing = self._publishers.journal if of_journal else self._publishers.messages
        publishing.confirmed(tag, multiple, ok)

    def blocked(self, is_blocked: bool) -> None:
        """Take note that the broker blocks or unblocks publishers."""
        self._set_blocked(is_blocked)
        self._log.warning("broker.blocked" if is_blocked else "broker.unblocked")

    def _set_blocked(self, is_blocked: bool) -> None:
        self._publishers.set_blocked(is_blocked)
        (self._timers.suspend if is_blocked else self._timers.resume)("blocked")

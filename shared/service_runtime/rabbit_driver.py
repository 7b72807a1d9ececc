"""RabbitDriver: runs an actor's core on RabbitMQ; docs/driver.md is its theory of operation.

One batch covers all handlers that run together, usually those of one socket read. Its journal
records are published first, on a channel of their own, then its effects in order; acks and rejects
wait until all of that is confirmed. After a lost connection the driver declares and consumes
everything again, publishes again what was not confirmed, and performs the actions that were left.
It decides nothing itself.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from time import time_ns
from typing import Any

import structlog

from service_runtime.amqp.confirms import Batch
from service_runtime.amqp.endpoint import Endpoint
from service_runtime.amqp.known_problems import known_problems
from service_runtime.amqp.lost_session import Reconnecting, SessionLost, TopologyMissing
from service_runtime.amqp.publishing import Publishers
from service_runtime.amqp.queues import Queues
from service_runtime.amqp.session import AmqpSession
from service_runtime.amqp.settlements import HeldDeliveries, Settlements
from service_runtime.connectivity import Connectivity
from service_runtime.office import Office
from service_runtime.passage import DIRECT, Handler, Passage
from service_runtime.performer import Performer, Tools
from service_runtime.stop_in_time import until_stopped
from service_runtime.timers import Timers
from vm_protocol import codec, effects, limits, messages, progress
from vm_protocol.actor import Actor, Plan
from vm_protocol.codec import Packet
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.intake import Delivery
from vm_protocol.progress import Arrival, Delivered, Happened
from vm_protocol.recorder import NO_CAUSE, Cause
from vm_protocol.recovery import Pending
from vm_protocol.timers import LEASES
from vm_protocol.topology import PROGRESS, RECORDS
from vm_protocol.trust import without_epoch
from vm_protocol.wire import Observe


class RabbitDriver:
    """Drives one actor over connections to one broker, until told to stop or `is_done`."""

    def __init__(
        self,
        actor: Actor[Any],
        endpoint: Endpoint,
        observe: Observe,
        is_done: Callable[[], bool] = lambda: False,
        passage: Passage = DIRECT,
        office: Office | None = None,
    ) -> None:
        self._actor = actor
        self._office = office
        self._streams = (RECORDS,) if office is None else (PROGRESS, RECORDS)
        self._name = name = without_epoch(actor.core.actor)
        self._passage = passage
        self._is_done = is_done
        self._endpoint = endpoint
        self._log = structlog.get_logger(actor=name)
        self._inbox: deque[Handler] = deque()
        self._wake = asyncio.Event()
        self._session: AmqpSession | None = None
        self._publishers = Publishers(name)
        self._queues = Queues(self._log, endpoint.is_replicated, self._arrived)
        self._held = HeldDeliveries()
        self._timers = Timers(self.fire, self._is_busy)
        tools = Tools(passage, self._publishers, self._queues, self._timers)
        self._performer = Performer(tools, observe, self.returned)
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
        if self._office is None:
            self._arrived(effects.Started(time_ns()))
        grace_s = limits.SHUTDOWN_MS / 1000
        if not await until_stopped(self._work_on_sessions(), self._stopping, grace_s):
            self._log.warning("broker.unanswered", unconfirmed_count=len(self._publishers))

    async def _work_on_sessions(self) -> None:
        reconnecting = Reconnecting(self._endpoint, self._name)
        while not self._stopping.is_set():
            endpoint = reconnecting.next_endpoint()
            session = AmqpSession(endpoint, self._name, self, self._streams)
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
                if self._office is not None:
                    self._office.leave()
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
        if self._office is None:
            await self._queues.restore(session)
            self._publishers.resume(session)
        elif not await self._take_office(self._office, session):
            return
        await self._queues.resume(session)
        self._timers.resume("no session")
        self.connectivity.is_connected = True
        self._log.info("broker.consuming", queue_count=self._queues.consumed_count)

    async def _take_office(self, office: Office, session: AmqpSession) -> bool:
        """Forget what the last session held, stand by, and take over; False: told to stop.

        Whoever lost its connection has lost the office: nothing that it still held is performed.
        """
        self._inbox.clear()
        self._performer.forget()
        self._timers.forget()
        self._queues.forget()
        self._publishers.forget()
        self._publishers.resume(session)
        self._actor.begin_anew()
        await office.stand_by(session)
        self.connectivity.is_connected = True
        self._ready.set()
        called = office.called(session, self._publishers)
        if not await until_stopped(called, self._stopping, 0.0):
            return False
        recovery = await office.take(session, self._publishers)
        self._queues.know(recovery.bindings, recovery.consumed.values())
        await self._queues.restore(session)
        for pending in recovery.pending:
            self._perform_again(pending)
        for timer, cause in recovery.timers.values():
            self._timers.set(timer, cause)
        # Before what has arrived meanwhile: it may be answered to a queue that only Started makes.
        for event in reversed(office.first_inputs(recovery)):
            self._inbox.appendleft(self._handler(event))
        return True

    async def _serve(self, session: AmqpSession, reconnecting: Reconnecting) -> None:
        """Work on what arrives until the session is lost or the service stops."""
        session.lost.add_done_callback(self._stir)
        while not self._stopping.is_set():
            if session.lost.done():
                raise SessionLost(str(session.lost.result()))
            await self._performer.perform(session)
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

    def _is_busy(self) -> bool:
        """Tell whether something has arrived, or was asked for, that is not done yet."""
        log = self._office.log if self._office is not None else None
        is_waiting = log is not None and log.is_open
        return bool(self._inbox or self._performer.is_busy or is_waiting)

    async def _finish(self, session: AmqpSession) -> None:
        log = self._office.log if self._office is not None else None
        if log is None:
            await self._queues.stop_consuming(session)
        await self._perform_all(session)
        await self._queues.deleted()
        if log is not None:
            # Whoever stops to consume gives the office away: everything must be done by then.
            log.tell()
            await self._perform_all(session)
            await self._queues.stop_consuming(session)

    async def _perform_all(self, session: AmqpSession) -> None:
        """Perform and have confirmed all there is; an entry that is confirmed lets out more."""
        await self._performer.perform(session)
        await self._publishers.all_confirmed()
        while self._performer.is_busy:
            await self._performer.perform(session)
            await self._publishers.all_confirmed()

    def _stir(self, *_: Any) -> None:
        """Wake whatever waits: the session is lost."""
        self._wake.set()
        self._publishers.wake()

    # --- what comes in: handlers that step the core --------------------------------------

    def delivered(self, queue: str, tag: int, packet: Packet, redelivered: bool) -> None:
        """Take a delivery; it is stepped with all others that arrived meanwhile."""
        session = self._session
        assert session is not None, "deliveries come from a session"
        if self._office is not None and self._office.delivered(session, queue, tag, packet):
            return
        delivery = Delivery(queue, packet, redelivered, next(self._numbers))
        self._timers.stir(packet)

        def take(is_copy: bool = False) -> Plan:
            if self._session is not session:
                return Plan()  # the broker delivers it again
            self._queues.positions.read(queue, packet.headers)
            plan = self._step(Delivered(delivery, time_ns()))
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
        if self._office is not None and queue == self._office.queue and self._session is not None:
            self._session.abandon(f"its consumer of {queue} was cancelled, and with it the office")
            return
        self._queues.cancelled(queue)
        self._wake.set()

    def fire(self, timer: effects.SetTimer, cause: Cause) -> None:
        """Tell the core that a timer has fired; an urgent one before all that waits.

        Who lives is no part of what passes: nobody holds back the timers of leases.
        """

        session = self._session

        def take(is_copy: bool = False) -> Plan:
            # Whoever has lost the office has no timers; its successor sets them anew.
            if self._office is not None and self._session is not session:
                return Plan()
            return self._step(Happened(effects.TimerFired(timer.name), time_ns(), cause))

        if timer.urgent:
            self._inbox.appendleft(take)
            self._wake.set()
        elif timer.name.partition("/")[0] in LEASES:
            self.enqueue(take)
        else:
            self._passage.fired(timer.name, take, self.enqueue)

    def _arrived(self, event: effects.Input, cause: Cause = NO_CAUSE) -> None:
        self.enqueue(self._handler(event, cause))

    def _handler(self, event: effects.Input, cause: Cause = NO_CAUSE) -> Handler:
        return lambda: self._step(Happened(event, time_ns(), cause))

    def enqueue(self, handler: Handler) -> None:
        """Put a handler into the inbox: the passage does so, and whoever tells the actor more."""
        self._inbox.append(handler)
        self._wake.set()

    # --- stepping ------------------------------------------------------------------------

    def _step(self, arrival: Arrival) -> Plan:
        """Step the actor; a manager's log takes note of it first."""
        if self._office is not None and self._office.log is not None:
            self._office.log.note(arrival)
        return progress.step(self._actor, arrival)

    def _step_inbox(self) -> None:
        """Run the core on everything that has arrived; publish the records, queue the actions.

        Of a manager, they are let out only once the log's entry with these inputs is confirmed.
        """
        log = self._office.log if self._office is not None else None
        while self._inbox:
            if log is None:
                self._performer.let_out(*self._step_batch(lambda: False))
                continue
            log.open()
            batch, plans = self._step_batch(lambda: log.is_full)
            self._passage.reached("before an entry")
            log.close(batch, partial(self._let_out_late, batch, plans))

    def _let_out_late(self, batch: Batch, plans: Sequence[Plan]) -> None:
        self._passage.reached("after an entry")
        self._performer.let_out(batch, plans)
        self._wake.set()

    def _step_batch(self, is_full: Callable[[], bool]) -> tuple[Batch, list[Plan]]:
        settlements = Settlements()
        batch = Batch(self._passage.settling(settlements))
        plans: list[Plan] = []
        while self._inbox and not is_full():
            plan = self._inbox.popleft()()
            plans.append(plan)
            for action in plan.actions:
                if isinstance(action, effects.Ack | effects.Reject):
                    settlements.settled += [(tag, action) for tag in self._held.release(action)]
        return batch, plans

    def _perform_again(self, pending: Pending) -> None:
        """Perform what was asked for in an entry that nobody has noted as performed.

        Timers are set by what the fold has left of them; what was to be settled, the broker
        delivers again.
        """
        log = self._office.log if self._office is not None else None
        assert log is not None, "only who has taken over performs again"
        batch = Batch(partial(log.performed, pending.position))
        actions = (effects.SetTimer, effects.CancelTimer)
        plans = [
            replace(plan, actions=tuple(a for a in plan.actions if not isinstance(a, actions)))
            for plan in pending.plans
        ]
        self._performer.let_out(batch, plans)

    # --- what the broker says of our publishes -------------------------------------------

    def confirmed(self, tag: int, multiple: bool, ok: bool, *, stream: str) -> None:
        """Take a confirm."""
        self._publishers.of(stream).confirmed(tag, multiple, ok)

    def blocked(self, is_blocked: bool) -> None:
        """Take note that the broker blocks or unblocks publishers."""
        self._set_blocked(is_blocked)
        self._log.warning("broker.blocked" if is_blocked else "broker.unblocked")

    def _set_blocked(self, is_blocked: bool) -> None:
        self._publishers.set_blocked(is_blocked)
        (self._timers.suspend if is_blocked else self._timers.resume)("blocked")

"""RabbitDriver: runs an actor's core on RabbitMQ.

One batch covers all handlers run on one socket read: its journal records go out first, then the
effects in order, on one channel; acks and rejects wait until all of it is confirmed. After a
lost connection everything is declared and consumed again, what was not confirmed is published
again, and actions that had not been performed follow. Nothing here judges or decides.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from time import time_ns
from typing import Any

import structlog

from service_runtime.amqp_session import AmqpSession, SessionLost
from service_runtime.confirms import Batch, ConfirmTracker, Outgoing
from vm_protocol import codec, effects, limits, topology
from vm_protocol.actor import Action, Actor, Plan
from vm_protocol.codec import Packet
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.intake import Delivery
from vm_protocol.recorder import NO_CAUSE, Cause, Send
from vm_protocol.topology import Mailbox, parse_mailbox
from vm_protocol.wire import Record

Observe = Callable[[Record], None]
Handler = Callable[[], Plan]
Held = tuple[AmqpSession, int]
"""A delivery tag, and the session in which alone it means something."""


@dataclass(slots=True)
class _Work:
    """An action that is still to be performed, in its batch; `cause` is what timers remember."""

    action: Action
    batch: Batch
    cause: Cause


@dataclass(slots=True)
class _Settlements:
    """Acks and rejects of one batch, performed when the batch is confirmed."""

    held: list[tuple[Held, effects.Ack | effects.Reject]] = field(default_factory=list)

    def perform(self) -> None:
        for (session, tag), settle in self.held:
            if isinstance(settle, effects.Ack):
                session.ack(tag)
            else:
                session.reject(tag, requeue=settle.requeue)


@dataclass(frozen=True, slots=True)
class Consumption:
    """What the driver consumes, so that it can do so again; `begin` is a stream's."""

    queue: topology.Queue | Mailbox
    prefetch: int
    begin: str = "first"


class RabbitDriver:
    """Drives one actor over connections to one broker, until told to stop or `is_done`."""

    def __init__(
        self,
        actor: Actor[Any],
        url: str,
        observe: Observe,
        is_done: Callable[[], bool] = lambda: False,
    ) -> None:
        self._actor = actor
        self._is_done = is_done
        self._url = url
        self._observe = observe
        self._log = structlog.get_logger(actor=actor.core.actor)
        self._inbox: deque[Handler] = deque()
        self._work: deque[_Work] = deque()
        self._wake = asyncio.Event()
        self._session: AmqpSession | None = None
        self._confirms = ConfirmTracker()
        self._consumptions: dict[str, Consumption] = {}
        self._held: dict[tuple[str, str], list[Held]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._numbers = count()
        self._stream_offsets: dict[str, int] = {}
        self._stopping = asyncio.Event()
        self.connected = asyncio.Event()
        self._ready = asyncio.Event()
        self.broker_version = "unknown"
        self.reconnect_count = 0

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
        return len(self._confirms)

    @property
    def is_connected(self) -> bool:
        """Tell whether a session is up, with everything consumed that was asked for."""
        return self.connected.is_set()

    # --- life ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect and work until `stop` is called, reconnecting with back-off.

        Raises:
            TopologyMismatch: The broker holds our queues with other arguments; nothing helps.
        """
        self._enqueue(lambda: self._actor.handle(effects.Started(), NO_CAUSE, time_ns()))
        backoff_ms = limits.RECONNECT_MS_MIN
        while not self._stopping.is_set():
            session = AmqpSession(self._url, self._actor.core.actor, self)
            try:
                await session.open()
                await self._resume(session)
                backoff_ms = limits.RECONNECT_MS_MIN
                await self._serve(session)
            except SessionLost as lost:
                self.connected.clear()
                if self._stopping.is_set():
                    break
                self._log.warning("broker.connection_lost", why=str(lost), retry_ms=backoff_ms)
                await session.close()
                self.reconnect_count += 1
                await self._pause(backoff_ms)
                backoff_ms = min(backoff_ms * 2, limits.RECONNECT_MS_MAX)
        if self._session is not None:
            await self._session.close()

    def stop(self) -> None:
        """End `run` after open confirms have arrived, at most SHUTDOWN_MS later."""
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
        unconfirmed = self._confirms.unconfirmed()
        self._confirms = ConfirmTracker()
        self._held.clear()
        self._session = session
        self.broker_version = session.broker_version
        self._log.info("broker.connected", broker=self.broker_version)
        for outgoing, batch in unconfirmed:
            self._publish(session, outgoing, batch)
        for name, consumption in tuple(self._consumptions.items()):
            await self._consume(session, name, consumption)
        self.connected.set()

    async def _serve(self, session: AmqpSession) -> None:
        """Work on what arrives until the session is lost or the service stops."""
        session.lost.add_done_callback(lambda _: self._wake.set())
        while not self._stopping.is_set():
            if session.lost.done():
                raise SessionLost(str(session.lost.result()))
            await self._perform_work(session)
            if self._consumptions:
                self._ready.set()
            if self._is_done():
                self.stop()
                break
            if not self._inbox:
                await self._wake.wait()
            self._wake.clear()
            self._step_inbox(session)
        await self._finish(session)

    async def _finish(self, session: AmqpSession) -> None:
        for queue in session.consumed_queues():
            await session.stop_consuming(queue)
        await self._perform_work(session)
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.SHUTDOWN_MS / 1000):
                while len(self._confirms):
                    self._wake.clear()
                    await self._wake.wait()

    # --- stepping ------------------------------------------------------------------------

    def _enqueue(self, handler: Handler) -> None:
        self._inbox.append(handler)
        self._wake.set()

    def _step_inbox(self, session: AmqpSession) -> None:
        """Run the core on everything that has arrived; publish the records, queue the actions."""
        if not self._inbox:
            return
        settlements = _Settlements()
        batch = Batch(settlements.perform)
        records: list[Record] = []
        while self._inbox:
            plan = self._inbox.popleft()()
            records += plan.records
            for action in plan.actions:
                if isinstance(action, effects.Ack | effects.Reject):
                    settlements.held += [(held, action) for held in self._release(action)]
                else:
                    self._work.append(_Work(action, batch, plan.cause))
                    batch.open_count += 1
        for record in records:
            self._observe(record)
        self._publish_records(session, records, batch)
        batch.seal()

    def _release(self, settle: effects.Ack | effects.Reject) -> Iterable[Held]:
        return self._held.pop((settle.queue, settle.message_id), [])

    def _publish_records(self, session: AmqpSession, records: list[Record], batch: Batch) -> None:
        size = limits.JOURNAL_BATCH_RECORDS_MAX
        for first in range(0, len(records), size):
            body = codec.encode_records(tuple(records[first : first + size]))
            exchange, key = topology.JOURNAL_QUEUE.bindings[0]
            packet = Packet(body, {"type": "Records"}, {})
            batch.open_count += 1
            self._publish(session, Outgoing(exchange, key, packet, mandatory=False), batch)

    def _publish(self, session: AmqpSession, outgoing: Outgoing, batch: Batch) -> None:
        """Publish, or leave it to the next session: the tracker keeps it either way."""
        self._confirms.published(outgoing, batch)
        with suppress(SessionLost):
            session.publish(outgoing)

    # --- performing ----------------------------------------------------------------------

    async def _perform_work(self, session: AmqpSession) -> None:
        """Perform actions in order; one that fails with the session is performed on the next."""
        while self._work:
            work = self._work[0]
            if isinstance(work.action, Send):
                self._work.popleft()
                self._publish(session, _outgoing(work.action), work.batch)
                continue
            await self._perform(session, work)
            self._work.popleft()
            work.batch.confirmed()

    async def _perform(self, session: AmqpSession, work: _Work) -> None:
        match work.action:
            case effects.Consume(queue, prefetch, begin):
                consumption = Consumption(queue, prefetch, begin)
                self._consumptions[queue.name] = consumption
                await self._consume(session, queue.name, consumption)
            case effects.ConsumeMailbox(mailbox):
                consumption = Consumption(mailbox, limits.MAILBOX_PREFETCH)
                self._consumptions[mailbox.name] = consumption
                await self._consume(session, mailbox.name, consumption)
            case effects.StopConsuming(name):
                self._consumptions.pop(name, None)
                await session.stop_consuming(name)
            case effects.DeclareMailbox(mailbox):
                await session.declare(mailbox.queue())
            case effects.DeleteMailbox(mailbox):
                await session.delete(mailbox.name)
            case effects.DeleteQueue(name):
                self._consumptions.pop(name, None)
                await session.delete(name)
            case effects.Bind(mailbox):
                await session.bind(mailbox)
            case effects.Unbind(mailbox):
                await session.unbind(mailbox)
            case effects.SetTimer(name, delay_ms):
                self._set_timer(name, delay_ms, work.cause)
            case effects.CancelTimer(name):
                self._cancel_timer(name)

    async def _consume(self, session: AmqpSession, name: str, consumption: Consumption) -> None:
        queue = consumption.queue
        if isinstance(queue, Mailbox):
            if not await session.exists(name):
                self._gone(queue)
                return
            await session.consume(name, consumption.prefetch)
            return
        await session.declare(queue)
        offset: int | str | None = None
        if queue.kind == "stream":
            read = self._stream_offsets.get(name)
            offset = consumption.begin if read is None else read + 1
        await session.consume(name, consumption.prefetch, offset)

    def _set_timer(self, name: str, delay_ms: int, cause: Cause) -> None:
        self._cancel_timer(name)
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(delay_ms / 1000, self._fire, name, cause)

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _fire(self, name: str, cause: Cause) -> None:
        self._timers.pop(name, None)
        fired = effects.TimerFired(name)
        self._enqueue(lambda: self._actor.handle(fired, cause, time_ns()))

    def _gone(self, mailbox: Mailbox) -> None:
        self._consumptions.pop(mailbox.name, None)
        gone = effects.MailboxGone(mailbox)
        self._enqueue(lambda: self._actor.handle(gone, NO_CAUSE, time_ns()))

    # --- what the session tells (amqp_session.Events) ----------------------------------------

    def delivered(self, queue: str, tag: int, packet: Packet, redelivered: bool) -> None:
        """Take a delivery; it is stepped with all others of this socket read."""
        session = self._session
        assert session is not None, "deliveries come from a session"
        if "x-stream-offset" in packet.headers:
            self._stream_offsets[queue] = int(packet.headers["x-stream-offset"])
        delivery = Delivery(queue, packet, redelivered, next(self._numbers))

        def take() -> Plan:
            if self._session is not session:
                return Plan()  # the broker delivers it again
            plan = self._actor.deliver(delivery, time_ns())
            self._held.setdefault((queue, plan.key), []).append((session, tag))
            return plan

        self._enqueue(take)

    def confirmed(self, tag: int, multiple: bool, ok: bool) -> None:
        """Take a confirm; what the broker refuses is published again after a pause."""
        if ok:
            self._confirms.confirmed(tag, multiple=multiple)
        else:
            refused = self._confirms.refused(tag, multiple=multiple)
            self._log.warning("broker.publish_refused", message_count=len(refused))
            delay_s = limits.RECONNECT_MS_MIN / 1000
            asyncio.get_running_loop().call_later(delay_s, self._publish_again, refused)
        if self._stopping.is_set():
            self._wake.set()

    def _publish_again(self, refused: list[tuple[Outgoing, Batch]]) -> None:
        assert self._session is not None, "refused by a session's broker"
        for outgoing, batch in refused:
            self._publish(self._session, outgoing, batch)

    def returned(self, packet: Packet) -> None:
        """Take back a mandatory message that matched no queue."""
        try:
            message, envelope = codec.decode(packet)
        except RemoteProtocolError:
            return  # what we sent we can read; records are not mandatory
        event = effects.Returned(message)
        cause = Cause(envelope.caused_by, envelope.traceparent, envelope.lamport)
        self._enqueue(lambda: self._actor.handle(event, cause, time_ns()))

    def cancelled(self, queue: str) -> None:
        """Take a `basic.cancel`: a mailbox is gone, any other queue is declared again."""
        mailbox = parse_mailbox(queue)
        if mailbox is not None:
            self._gone(mailbox)
        elif self._session is not None:
            self._log.warning("broker.consumer_cancelled", queue=queue)
            self._session.abandon(f"consumer of {queue} cancelled")

    def blocked(self, is_blocked: bool) -> None:
        """Say that the broker blocks or unblocks publishers."""
        event = "broker.blocked" if is_blocked else "broker.unblocked"
        self._log.warning(event)


def _outgoing(send: Send) -> Outgoing:
    publish = send.publish
    packet = codec.encode(publish.message, send.envelope)
    return Outgoing(publish.exchange, publish.routing_key, packet, publish.mandatory)

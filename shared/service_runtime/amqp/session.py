"""One connection's life: open, declare, consume, publish; pika's callbacks turned into futures.

Lives on asyncio's thread and its loop (pika: one thread per connection). A session is never
reopened: after a loss, the driver opens another one. Translates pika's errors once, here.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Final, cast

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError

from service_runtime.amqp.confirms import Outgoing
from service_runtime.amqp.endpoint import Endpoint
from service_runtime.amqp.lost_session import QueueMissing, SessionLost, is_missing, loss
from service_runtime.amqp.pika_packets import packet_of, properties_of
from service_runtime.amqp.session_events import Events
from vm_protocol import limits
from vm_protocol.topology import (
    EXCHANGES,
    RECORDS,
    REQUESTS,
    SHARED_QUEUES,
    Exchange,
    Mailbox,
    Queue,
    replicated,
)

CLOSE_S: Final = 1.0
"""How long a broker may take to answer a close before its socket is given up."""

Offset = int | str | datetime
"""Where a stream's reader starts: an offset, "first" or "next", or a time (RabbitMQ: streams)."""


@contextmanager
def translated(is_lost: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Turn pika's errors into ours: the channel or connection does not take the call any more."""
    try:
        yield
    except AMQPError as error:
        if not is_lost():
            raise
        raise SessionLost(f"{type(error).__name__}: {error}") from error


class AmqpSession:
    """A connection: a channel for all work, one for each stream, short ones for what may fail.

    A channel that publishes to nothing but a stream numbers its publishes as the stream does. On
    others 3.10, once the stream has a new leader, sends its own numbers along with what it repeats;
    what comes later with smaller ones is taken for duplicates: confirmed, and not stored.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        events: Events,
        streams: tuple[Exchange, ...] = (RECORDS,),
    ) -> None:
        self._endpoint = endpoint
        self._streams = streams
        self._user = endpoint.user
        self._name = name
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._pending: set[asyncio.Future[Any]] = set()
        self._consumers: dict[str, str] = {}
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[BaseException] = self._loop.create_future()
        self.bug: Exception | None = None
        self.connection: AsyncioConnection | None = None
        self.channel: Channel | None = None
        self._publishing: dict[str, Channel] = {}

    # --- opening and closing -------------------------------------------------------------

    async def open(self) -> None:
        """Connect, open the publishing channels, declare the shared topology unless it is given.

        Raises:
            SessionLost: The broker cannot be reached, or refuses.
            TopologyMismatch: The shared topology exists with other arguments.
            EndpointError: No connection can be made with the URL.
        """
        parameters = self._endpoint.parameters()
        parameters.heartbeat = self._endpoint.heartbeat_s
        parameters.blocked_connection_timeout = limits.BLOCKED_TIMEOUT_S
        parameters.client_properties = {"connection_name": self._name}

        def connect(opened: Callable[[Any], None]) -> None:
            self.connection = AsyncioConnection(
                parameters,
                on_open_callback=opened,
                on_open_error_callback=self._on_closed,
                on_close_callback=self._on_closed,
                custom_ioloop=self._loop,
            )

        await self._ask(connect)
        assert self.connection is not None, "made by connect()"
        tell, events = self._tell, self._events
        self.connection.add_on_connection_blocked_callback(lambda *_: tell(events.blocked, True))
        self.connection.add_on_connection_unblocked_callback(lambda *_: tell(events.blocked, False))
        self.channel = await self._open_publishing("")
        self.channel.add_on_return_callback(
            lambda _c, _m, *returned: tell(events.returned, packet_of(*returned))
        )
        self.channel.add_on_cancel_callback(self._on_cancel)
        for stream in self._streams:
            self._publishing[stream.name] = await self._open_publishing(stream.name)
        if not self._endpoint.topology_given:
            await self._declare_shared()

    @property
    def broker_version(self) -> str:
        """Return the broker's product and version, as it says them itself."""
        assert self.connection is not None, "read after open()"
        properties = cast(dict[str, Any], self.connection.server_properties or {})
        return f"{properties.get('product', 'unknown')} {properties.get('version', 'unknown')}"

    async def close(self) -> None:
        """Close the connection, half-open ones too; unsettled deliveries go back to their queues.

        A broker that does not answer within CLOSE_S is left; its socket closes with ours.
        """
        connection = self.connection
        if connection is None or self._closed.done():
            return
        if not (connection.is_closing or connection.is_closed):
            connection.close()
        await asyncio.wait([self._closed], timeout=CLOSE_S)
        if not self._closed.done():
            # pika has no public way to drop a connection whose peer is silent (1.4).
            cast(Any, connection)._adapter_disconnect_stream()
            await asyncio.wait([self._closed], timeout=CLOSE_S)
        for _ in range(3):  # transports close their sockets in callbacks after the last one
            await asyncio.sleep(0)

    def abandon(self, why: str) -> None:
        """Give the session up, so that the driver opens another one."""
        self._lose(SessionLost(why))

    def _on_closed(self, _connection: Any, error: BaseException | str) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        self._lose(error if isinstance(error, BaseException) else SessionLost(error))

    async def open_channel(self) -> Channel:
        """Open a channel for what may fail; whoever opens it closes it."""
        connection = self.connection
        assert connection is not None, "opened first"
        opened = await self._ask(lambda done: connection.channel(on_open_callback=done))
        return cast(Channel, opened)

    async def _open_publishing(self, stream: str) -> Channel:
        channel = await self.open_channel()
        channel.add_on_close_callback(lambda _, error: self._lose(error))
        if stream:  # what is returned nobody has stored; the next session binds it again
            channel.add_on_return_callback(lambda *_: self.abandon(f"{stream} is not bound"))
        await self._call(channel.confirm_delivery, partial(self._on_confirm, stream))
        return channel

    async def _declare_shared(self) -> None:
        for exchange in EXCHANGES:
            await self._call(
                self._used().exchange_declare,
                exchange=exchange.name,
                exchange_type=exchange.type,
                durable=True,
            )
        for queue in SHARED_QUEUES:
            await self.declare(queue)

    # --- topology, each awaited until the broker answers ------------------------------------

    async def declare(self, queue: Queue) -> None:
        """Declare a queue and its bindings; safe to repeat.

        A shared queue that is the deployment's is left alone: no service may configure it.
        """
        if self._endpoint.topology_given and queue in SHARED_QUEUES:
            return
        if self._endpoint.is_replicated:
            queue = replicated(queue)
        declare, arguments = self._used().queue_declare, dict(queue.arguments)
        await self._call(declare, queue=queue.name, durable=True, arguments=arguments)
        for exchange, key in queue.bindings:
            await self._call(
                self._used().queue_bind, queue=queue.name, exchange=exchange, routing_key=key
            )

    async def delete(self, queue: str) -> None:
        """Delete a queue, on a channel of its own: on the other one all else would wait for it.

        One that is not there is fine (RabbitMQ answers deletes of both).

        Raises:
            SessionLost: The broker refuses, which leaves this session as it is, or it is lost.
        """
        self._consumers.pop(queue, None)
        await self.aside(lambda channel, done: channel.queue_delete(queue, callback=done))

    async def bind(self, mailbox: Mailbox) -> None:
        """Bind a mailbox to `vm.requests` with its VM's key."""
        await self._bind(mailbox, bound=True)

    async def unbind(self, mailbox: Mailbox) -> None:
        """Undo `bind`; repeating it is harmless."""
        await self._bind(mailbox, bound=False)

    async def _bind(self, mailbox: Mailbox, *, bound: bool) -> None:
        await self._call(
            self._used().queue_bind if bound else self._used().queue_unbind,
            queue=mailbox.name,
            exchange=REQUESTS.name,
            routing_key=mailbox.vm,
        )

    async def exists(self, queue: str) -> bool:
        """Tell whether a queue exists, on a channel of its own: a miss closes it (404)."""
        try:
            await self.aside(
                lambda channel, done: channel.queue_declare(queue, passive=True, callback=done)
            )
        except QueueMissing:
            return False
        return True

    async def aside(self, method: Callable[[Channel, Callable[[Any], None]], object]) -> Any:
        """Call an AMQP method on a channel of its own, and return its answer.

        Raises:
            QueueMissing: What it names is not there (404).
            SessionLost: The broker refuses otherwise, which closes that channel only, or it is
                gone.
        """
        channel = await self.open_channel()

        def ask(done: Callable[[Any], None]) -> None:
            channel.add_on_close_callback(lambda _, error: done(error))
            method(channel, done)

        answer = await self._ask(ask)
        if is_missing(answer):
            raise QueueMissing(str(answer))
        if isinstance(answer, BaseException):
            raise SessionLost(f"{type(answer).__name__}: {answer}")
        with translated():
            channel.close()
        return answer

    async def consume(self, queue: str, prefetch: int, offset: Offset | None = None) -> None:
        """Consume a queue with its own prefetch; `offset` is where a stream's reader starts."""
        if queue in self._consumers:
            return
        channel = self._used()
        await self._call(channel.basic_qos, prefetch_count=prefetch, global_qos=False)
        arguments = {} if offset is None else {"x-stream-offset": offset}

        def ask(done: Callable[[Any], None]) -> None:
            self._consumers[queue] = channel.basic_consume(
                queue=queue,
                on_message_callback=self._deliver(queue),
                arguments=arguments,
                callback=done,
            )

        await self._ask(ask)

    async def stop_consuming(self, queue: str) -> None:
        """Cancel a queue's consumer; what it holds stays unsettled."""
        tag = self._consumers.pop(queue, None)
        if tag is not None:
            await self._call(self._used().basic_cancel, consumer_tag=tag)

    # --- the fast path: nothing here waits ---------------------------------------------------

    def publish(self, outgoing: Outgoing) -> None:
        """Publish; the confirm arrives later.

        Raises:
            SessionLost: The channel is closed.
        """
        properties = properties_of(outgoing.packet, self._user)
        channel = self._publishing.get(outgoing.exchange, self.channel)
        assert channel is not None, "opened first"
        if not (self._is_usable() and channel.is_open):
            raise SessionLost("the channel is closed")
        # A refusal of an open channel is our bug: swallowed, it would shift all confirms by one.
        with translated(lambda: not (self._is_usable() and channel.is_open)):
            channel.basic_publish(
                outgoing.exchange,
                outgoing.routing_key,
                outgoing.packet.body,
                properties,
                mandatory=outgoing.mandatory,
            )

    def ack(self, tag: int) -> None:
        """Acknowledge a delivery of this session."""
        if self._is_usable():
            self._used().basic_ack(tag)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Reject a delivery of this session."""
        if self._is_usable():
            self._used().basic_reject(tag, requeue=requeue)

    def _is_usable(self) -> bool:
        """Tell whether settling means anything: tags die with their channel."""
        return not self.lost.done() and self._used().is_open and self._used().connection.is_open

    def _used(self) -> Channel:
        assert self.channel is not None, "opened first"
        return self.channel

    # --- callbacks -----------------------------------------------------------------------

    def _deliver(self, queue: str) -> Callable[..., None]:
        def on_message(
            _channel: Channel, method: Any, properties: pika.BasicProperties, body: bytes
        ) -> None:
            told = method.delivery_tag, packet_of(properties, body), method.redelivered
            self._tell(self._events.delivered, queue, *told)

        return on_message

    def _on_confirm(self, stream: str, frame: Any) -> None:
        method, confirmed = frame.method, partial(self._events.confirmed, stream=stream)
        self._tell(confirmed, method.delivery_tag, method.multiple, method.NAME == "Basic.Ack")

    def _on_cancel(self, frame: Any) -> None:
        tag = frame.method.consumer_tag
        for queue, known in tuple(self._consumers.items()):
            if known == tag:
                del self._consumers[queue]
                self._tell(self._events.cancelled, queue)

    def _tell(self, tell: Callable[..., None], *args: Any) -> None:
        """Tell the driver something, unless the session is over.

        An exception here is our bug, and pika would take it for a broken socket and go on: it
        ends the session, and `bug` is for the driver to raise.
        """
        if self.lost.done():
            return
        try:
            tell(*args)
        except Exception as bug:
            self.bug = bug
            self._lose(bug)

    # --- futures -------------------------------------------------------------------------

    async def _ask(self, ask: Callable[[Callable[[Any], None]], object]) -> Any:
        """Ask the broker something and wait; `ask` is given what takes the answer."""
        if self.lost.done():
            raise SessionLost(str(self.lost.result()))
        answered: asyncio.Future[Any] = self._loop.create_future()
        self._pending.add(answered)

        def take(answer: Any) -> None:
            if not answered.done():
                answered.set_result(answer)

        try:
            with translated():
                ask(take)
            return await answered
        finally:
            self._pending.discard(answered)
            answered.cancel()

    async def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call an AMQP method and wait for its answer."""
        return await self._ask(lambda done: method(*args, **kwargs, callback=done))

    def _lose(self, error: BaseException) -> None:
        """End the session: fail whatever waits, and say so to the driver once."""
        if self.lost.done():
            return
        self.lost.set_result(error)
        failure = loss(error, topology_given=self._endpoint.topology_given)
        for future in tuple(self._pending):
            if not future.done():
                future.set_exception(failure)
        if self.connection is not None and self.connection.is_open:
            self.connection.close()

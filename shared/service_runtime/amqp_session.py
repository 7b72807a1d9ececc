"""One connection's life: open, declare, consume, publish; pika's callbacks turned into futures.

Lives on asyncio's thread and its loop (pika: one thread per connection). A session is never
reopened: after a loss, the driver opens another one. Translates pika's errors once, here.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosed, ChannelClosedByBroker

from service_runtime.confirms import Outgoing
from vm_protocol import limits
from vm_protocol.codec import Packet
from vm_protocol.topology import EXCHANGES, REQUESTS, SHARED_QUEUES, Mailbox, Queue


class SessionLost(Exception):
    """The connection or its channel is gone; every delivery tag with it."""


class TopologyMismatch(Exception):
    """The broker holds a queue or exchange of this name with other arguments (406)."""


class Events(Protocol):
    """What a session tells its driver."""

    def delivered(self, queue: str, tag: int, packet: Packet, redelivered: bool) -> None:
        """A delivery arrived."""

    def confirmed(self, tag: int, multiple: bool, ok: bool) -> None:
        """The broker confirmed, or refused, publishes."""

    def returned(self, packet: Packet) -> None:
        """A mandatory message matched no queue."""

    def cancelled(self, queue: str) -> None:
        """The broker cancelled a consumer: its queue is gone."""

    def blocked(self, is_blocked: bool) -> None:
        """The broker blocks or unblocks publishers of this connection."""


def packet_of(properties: pika.BasicProperties, body: bytes) -> Packet:
    """Return the packet that pika's properties and body are."""
    names = ("message_id", "correlation_id", "reply_to", "type")
    named = {name: getattr(properties, name) for name in names}
    return Packet(body, named, properties.headers or {})


class AmqpSession:
    """A connection with two channels: one for all work, one that may fail while probing."""

    def __init__(self, url: str, name: str, events: Events) -> None:
        self._url = url
        self._name = name
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._pending: set[asyncio.Future[Any]] = set()
        self._consumers: dict[str, str] = {}
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[BaseException] = self._loop.create_future()
        self.connection: AsyncioConnection | None = None
        self.channel: Channel | None = None

    # --- opening and closing -------------------------------------------------------------

    async def open(self) -> None:
        """Connect, open the channel with confirms, declare the shared topology.

        Raises:
            SessionLost: The broker cannot be reached, or refuses.
            TopologyMismatch: The shared topology exists with other arguments.
        """
        parameters = pika.URLParameters(self._url)
        parameters.heartbeat = limits.HEARTBEAT_S
        parameters.blocked_connection_timeout = limits.BLOCKED_TIMEOUT_S
        parameters.client_properties = {"connection_name": self._name}
        opened: asyncio.Future[Any] = self._future()
        self.connection = AsyncioConnection(
            parameters,
            on_open_callback=lambda connection: self._done(opened, connection),
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
            custom_ioloop=self._loop,
        )
        await opened
        self.connection.add_on_connection_blocked_callback(lambda *_: self._events.blocked(True))
        self.connection.add_on_connection_unblocked_callback(lambda *_: self._events.blocked(False))
        channel = await self._open_channel()
        channel.add_on_close_callback(lambda _, error: self._lose(error))
        channel.add_on_return_callback(
            lambda _c, _m, properties, body: self._events.returned(packet_of(properties, body))
        )
        channel.add_on_cancel_callback(self._on_cancel)
        self.channel = channel
        await self._call(channel.confirm_delivery, self._on_confirm)
        await self._declare_shared()

    @property
    def broker_version(self) -> str:
        """Return the broker's product and version, as it says them itself."""
        assert self.connection is not None, "read after open()"
        properties = cast(dict[str, Any], self.connection.server_properties or {})
        return f"{properties.get('product', 'unknown')} {properties.get('version', 'unknown')}"

    async def close(self) -> None:
        """Close the connection; unsettled deliveries go back to their queues."""
        connection = self.connection
        if connection is None:
            return
        if connection.is_open:
            connection.close()
        await asyncio.wait([self._closed], timeout=limits.SHUTDOWN_MS / 1000)

    def abandon(self, why: str) -> None:
        """Give the session up, so that the driver opens another one."""
        self._lose(SessionLost(why))

    def _on_closed(self, _connection: Any, error: BaseException | str) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        self._lose(error if isinstance(error, BaseException) else SessionLost(error))

    async def _open_channel(self) -> Channel:
        assert self.connection is not None, "opened first"
        opened: asyncio.Future[Any] = self._future()
        self.connection.channel(on_open_callback=lambda channel: self._done(opened, channel))
        return cast(Channel, await opened)

    async def _declare_shared(self) -> None:
        assert self.channel is not None, "opened first"
        for exchange in EXCHANGES:
            await self._call(
                self.channel.exchange_declare,
                exchange=exchange.name,
                exchange_type=exchange.type,
                durable=True,
            )
        for queue in SHARED_QUEUES:
            await self.declare(queue)

    # --- topology, each awaited until the broker answers ------------------------------------

    async def declare(self, queue: Queue) -> None:
        """Declare a queue and its bindings; safe to repeat."""
        assert self.channel is not None, "opened first"
        await self._call(
            self.channel.queue_declare,
            queue=queue.name,
            durable=True,
            arguments=dict(queue.arguments),
        )
        for exchange, key in queue.bindings:
            await self._call(
                self.channel.queue_bind, queue=queue.name, exchange=exchange, routing_key=key
            )

    async def delete(self, queue: str) -> None:
        """Delete a queue; one that is not there is fine (RabbitMQ answers deletes of both)."""
        assert self.channel is not None, "opened first"
        self._consumers.pop(queue, None)
        await self._call(self.channel.queue_delete, queue=queue)

    async def bind(self, mailbox: Mailbox) -> None:
        """Bind a mailbox to `vm.requests` with its VM's key."""
        await self._bind(mailbox, bound=True)

    async def unbind(self, mailbox: Mailbox) -> None:
        """Undo `bind`; repeating it is harmless."""
        await self._bind(mailbox, bound=False)

    async def _bind(self, mailbox: Mailbox, *, bound: bool) -> None:
        assert self.channel is not None, "opened first"
        await self._call(
            self.channel.queue_bind if bound else self.channel.queue_unbind,
            queue=mailbox.name,
            exchange=REQUESTS.name,
            routing_key=mailbox.vm,
        )

    async def exists(self, queue: str) -> bool:
        """Tell whether a queue exists, on a channel of its own: a miss closes it (404)."""
        probe = await self._open_channel()
        answered: asyncio.Future[Any] = self._future()
        probe.add_on_close_callback(lambda _, error: self._done(answered, error))
        probe.queue_declare(
            queue=queue, passive=True, callback=lambda frame: self._done(answered, frame)
        )
        answer = await answered
        if isinstance(answer, ChannelClosedByBroker):
            return False
        probe.close()
        return True

    async def consume(self, queue: str, prefetch: int, offset: int | str | None = None) -> None:
        """Consume a queue with its own prefetch; `offset` is where a stream's reader starts."""
        assert self.channel is not None, "opened first"
        if queue in self._consumers:
            return
        await self._call(self.channel.basic_qos, prefetch_count=prefetch, global_qos=False)
        arguments = {} if offset is None else {"x-stream-offset": offset}
        answered: asyncio.Future[Any] = self._future()
        self._consumers[queue] = self.channel.basic_consume(
            queue=queue,
            on_message_callback=self._deliver(queue),
            arguments=arguments,
            callback=lambda frame: self._done(answered, frame),
        )
        await answered

    async def stop_consuming(self, queue: str) -> None:
        """Cancel a queue's consumer; what it holds stays unsettled."""
        assert self.channel is not None, "opened first"
        tag = self._consumers.pop(queue, None)
        if tag is not None:
            await self._call(self.channel.basic_cancel, consumer_tag=tag)

    def consumed_queues(self) -> tuple[str, ...]:
        """Return the names of the queues that are consumed now."""
        return tuple(self._consumers)

    # --- the fast path: nothing here waits ---------------------------------------------------

    def publish(self, outgoing: Outgoing) -> None:
        """Publish; the confirm arrives later.

        Raises:
            SessionLost: The channel is closed.
        """
        packet = outgoing.packet
        properties = pika.BasicProperties(
            headers=dict(packet.headers), delivery_mode=2, **packet.properties
        )
        try:
            assert self.channel is not None, "opened first"
            self.channel.basic_publish(
                outgoing.exchange,
                outgoing.routing_key,
                packet.body,
                properties,
                mandatory=outgoing.mandatory,
            )
        except AMQPError as error:
            raise SessionLost(str(error)) from error

    def ack(self, tag: int) -> None:
        """Acknowledge a delivery of this session."""
        if self.channel is not None and self.channel.is_open:
            self.channel.basic_ack(tag)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Reject a delivery of this session."""
        if self.channel is not None and self.channel.is_open:
            self.channel.basic_reject(tag, requeue=requeue)

    # --- callbacks -----------------------------------------------------------------------

    def _deliver(self, queue: str) -> Callable[..., None]:
        def on_message(
            _channel: Channel, method: Any, properties: pika.BasicProperties, body: bytes
        ) -> None:
            packet = packet_of(properties, body)
            self._events.delivered(queue, method.delivery_tag, packet, method.redelivered)

        return on_message

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        self._events.confirmed(method.delivery_tag, method.multiple, method.NAME == "Basic.Ack")

    def _on_cancel(self, frame: Any) -> None:
        tag = frame.method.consumer_tag
        for queue, known in tuple(self._consumers.items()):
            if known == tag:
                del self._consumers[queue]
                self._events.cancelled(queue)

    # --- futures -------------------------------------------------------------------------

    def _future(self) -> asyncio.Future[Any]:
        if self.lost.done():
            raise SessionLost(str(self.lost.result()))
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def _done(self, future: asyncio.Future[Any], value: Any) -> None:
        if not future.done():
            future.set_result(value)

    async def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call an AMQP method and wait for its answer."""
        answered = self._future()
        try:
            method(*args, **kwargs, callback=lambda frame: self._done(answered, frame))
        except AMQPError as error:
            answered.cancel()
            raise SessionLost(str(error)) from error
        return await answered

    def _lose(self, error: BaseException) -> None:
        """End the session: fail whatever waits, and say so to the driver once."""
        if self.lost.done():
            return
        self.lost.set_result(error)
        mismatch = isinstance(error, ChannelClosed) and error.reply_code == 406
        failure: Exception
        if mismatch and "inequivalent arg" in str(error):
            failure = TopologyMismatch(str(error))
        else:
            failure = SessionLost(f"{type(error).__name__}: {error}")
        for future in tuple(self._pending):
            if not future.done():
                future.set_exception(failure)
        if self.connection is not None and self.connection.is_open:
            self.connection.close()

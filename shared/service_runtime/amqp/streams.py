"""Reading a stream: from an offset on, or only how far it goes (RabbitMQ: streams, consuming)."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from typing import Any

import pika
from pika.channel import Channel

from service_runtime.amqp.lost_session import SessionLost
from service_runtime.amqp.pika_packets import packet_of
from service_runtime.amqp.session import AmqpSession, Offset, translated
from vm_protocol import limits
from vm_protocol.codec import Packet

OFFSET: str = "x-stream-offset"
"""The header with a message's offset, and the argument that says where a reader attaches."""


async def read_stream(
    session: AmqpSession, stream: str, begin: Offset, patience_s: float
) -> AsyncGenerator[tuple[int, Packet], None]:
    """Yield what a stream holds with its offsets, on a channel of its own; never ends by itself.

    Nothing may come for `patience_s` seconds.

    Raises:
        SessionLost: The session is lost, or the broker refuses.
    """
    channel = await session.open_channel()
    arrived: asyncio.Queue[tuple[Packet, int] | BaseException] = asyncio.Queue()
    channel.add_on_close_callback(lambda _, error: arrived.put_nowait(error))

    def take(_c: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        arrived.put_nowait((packet_of(properties, body), method.delivery_tag))

    try:
        with translated():
            channel.basic_qos(prefetch_count=limits.STREAM_PREFETCH)
            channel.basic_consume(stream, take, arguments={OFFSET: begin})
        while True:
            found = await asyncio.wait_for(arrived.get(), patience_s)
            if isinstance(found, BaseException):
                break
            packet, tag = found
            with translated():
                channel.basic_ack(tag)
            yield int(packet.headers[OFFSET]), packet
    except TimeoutError:
        raise SessionLost(f"nothing comes from {stream}") from None
    finally:
        if channel.is_open:
            channel.close()
    raise SessionLost(f"{type(found).__name__}: {found}")


async def message_count(session: AmqpSession, stream: str) -> int:
    """Return about how many messages a stream holds.

    Raises:
        SessionLost: The broker refuses, or is gone.
    """
    declared = await session.aside(
        lambda channel, done: channel.queue_declare(stream, passive=True, callback=done)
    )
    return int(declared.method.message_count)


async def read_last(session: AmqpSession, stream: str) -> tuple[int, Packet]:
    """Return the first message of a stream's last chunk with its offset; it must not be empty.

    Raises:
        SessionLost: The broker refuses, or is gone.
    """
    answer = await session.aside(lambda channel, done: _read_last(channel, stream, done))
    offset, packet = answer
    return int(offset), packet


async def look_back(session: AmqpSession, queue: str, wanted: Offset) -> Offset:
    """Return where a stream's reader attaches: `wanted`, or not so far back if that is a time.

    That is the offset of the LOOK_BACK_MESSAGES_MAX-th message from the end. A broker tells how
    many messages a stream holds, and a reader of its last ones their offsets; both are asked on a
    channel of their own, which ends with that.

    Raises:
        SessionLost: The broker refuses, or is gone.
    """
    if not isinstance(wanted, datetime):
        return wanted
    # Short enough to be read as a whole: the time says where to begin.
    if await message_count(session, queue) <= limits.LOOK_BACK_MESSAGES_MAX:
        return wanted
    last, _ = await read_last(session, queue)
    return max(0, last - limits.LOOK_BACK_MESSAGES_MAX)


def _read_last(channel: Channel, queue: str, done: Callable[[Any], None]) -> None:
    """Have `done` told a message of the stream's last chunk."""

    def read(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        packet = packet_of(properties, body)
        done((packet.headers.get(OFFSET, 0), packet))

    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue, read, arguments={OFFSET: "last"})

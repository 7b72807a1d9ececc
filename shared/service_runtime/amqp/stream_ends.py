"""Where a stream's reader attaches when it wants to look back, but not at all that there is.

A broker tells how many messages a stream holds, and a reader of its last ones their offsets
(RabbitMQ: streams, consuming). Both are asked on a channel of their own, which ends with that.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pika.channel import Channel

from service_runtime.amqp.session import AmqpSession, Offset
from vm_protocol import limits


async def bounded(session: AmqpSession, queue: str, wanted: Offset) -> Offset:
    """Return a time as it is, or the offset of the LOOK_BACK_MESSAGES_MAX-th message from the end.

    Raises:
        SessionLost: The broker refuses, or is gone.
    """
    if not isinstance(wanted, datetime):
        return wanted
    declared = await session.aside(
        lambda channel, done: channel.queue_declare(queue, passive=True, callback=done)
    )
    # Short enough to be read as a whole: the time says where to begin.
    if int(declared.method.message_count) <= limits.LOOK_BACK_MESSAGES_MAX:
        return wanted
    last = await session.aside(lambda channel, done: _read_last(channel, queue, done))
    return max(0, int(last) - limits.LOOK_BACK_MESSAGES_MAX)


def _read_last(channel: Channel, queue: str, done: Callable[[Any], None]) -> None:
    """Have `done` told an offset of the stream's last chunk."""

    def read(_channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        done((properties.headers or {}).get("x-stream-offset", 0))

    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue, read, arguments={"x-stream-offset": "last"})

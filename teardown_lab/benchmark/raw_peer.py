"""The yardstick's connection: pika and nothing else, one channel with confirms, one process.

A delivery that made its receiver publish is acknowledged once the last of these publishes is
confirmed, as our services do it; any other one at once.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import pika
from pika.channel import Channel

from vm_protocol import limits
from vm_protocol.topology import Queue

OnReceived = Callable[[pika.BasicProperties, bytes], None]

_HEADERS: Final[dict[str, Any]] = {
    "x-schema": 1,
    "x-caused-by": "vm-00000000.1/destroy-vcpu/00/3.0",
    "traceparent": f"00-{'0' * 32}-{'0' * 16}-01",
    "x-sender": "worker.worker-000000-1",
    "x-lamport": 10_000,
    "x-epoch": 1,
}
"""As many as our messages have, and as long."""


class RawPeer:
    """One process of the yardstick; `ready` is called on the open channel."""

    def __init__(self, url: str, ready: Callable[[], None]) -> None:
        self._ready = ready
        self._published = 0
        self._unacknowledged: deque[tuple[int, int]] = deque()
        self._channel: Channel | None = None
        parameters = pika.URLParameters(url)
        parameters.heartbeat = limits.HEARTBEAT_S
        self._connection = pika.SelectConnection(parameters, self._opened)

    def run(self) -> None:
        """Work until the process is ended."""
        self._connection.ioloop.start()

    @property
    def channel(self) -> Channel:
        """Return the open channel."""
        assert self._channel is not None, "used after ready()"
        return self._channel

    def _opened(self, _connection: Any) -> None:
        self._connection.channel(on_open_callback=self._channel_opened)

    def _channel_opened(self, channel: Channel) -> None:
        self._channel = channel
        channel.confirm_delivery(self._confirmed, callback=lambda _: self._ready())

    def publish(self, exchange: str, key: str, kind: str, argument: str, size: int) -> None:
        """Publish a persistent message of a size; kind and argument are for its receiver."""
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            type=kind,
            message_id=argument,
            headers=_HEADERS,
        )
        self._published += 1
        self.channel.basic_publish(exchange, key, b"x" * size, properties, mandatory=True)

    def declare(self, queue: Queue, done: Callable[[], None]) -> None:
        """Declare a queue with its bindings."""
        arguments = dict(queue.arguments)
        bindings = list(queue.bindings)

        def bind(_: Any) -> None:
            if not bindings:
                done()
                return
            exchange, key = bindings.pop()
            self.channel.queue_bind(queue.name, exchange, key, callback=bind)

        self.channel.queue_declare(queue.name, durable=True, arguments=arguments, callback=bind)

    def consume(
        self, queue: str, prefetch: int, received: OnReceived, done: Callable[[], None]
    ) -> None:
        """Consume a queue; `received` gets properties and body of each delivery."""

        def on_message(
            channel: Channel, method: Any, properties: pika.BasicProperties, body: bytes
        ) -> None:
            before = self._published
            received(properties, body)
            if self._published == before:
                channel.basic_ack(method.delivery_tag)
            else:
                self._unacknowledged.append((self._published, method.delivery_tag))

        def start(_: Any) -> None:
            self.channel.basic_consume(queue, on_message, callback=lambda _: done())

        self.channel.basic_qos(prefetch_count=prefetch, callback=start)

    def _confirmed(self, frame: Any) -> None:
        """Acknowledge what waited; confirms of a channel grow, if not one by one."""
        number = frame.method.delivery_tag
        while self._unacknowledged and self._unacknowledged[0][0] <= number:
            self.channel.basic_ack(self._unacknowledged.popleft()[1])

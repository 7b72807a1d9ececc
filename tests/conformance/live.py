"""The adapter for a real broker: pika's blocking connections, one for each client.

Blocking confirms are for tests alone; the services stream theirs.
"""

import contextlib
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pika
import pika.exceptions

from conformance.adapter import Broker, Delivery, Gone, Refused, Sent, essence_of
from teardown_lab.simulator.versions import BrokerVersion
from vm_protocol.topology import Queue

PATIENCE_S: Final = 30.0
"""How long something that is expected may take; then the test sees what there is, and fails."""

SINGLE_ACTIVE_S: Final = 0.05
"""How long a broker has to notice a lost connection where it counts only the active consumer."""

_PERSISTENT: Final = 2


class _Client:
    """One connection with one channel, and all that came on it; consumer tags are queue names."""

    def __init__(self, url: str, names: Mapping[str, str]) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.add_on_cancel_callback(self._cancelled)
        self.events: list[Delivery | Gone] = []
        self.queues: set[str] = set()
        self._names = names

    def delivered(self, client: str, method: Any, properties: Any, body: bytes) -> None:
        """Take a delivery."""
        queue = self._names[method.consumer_tag]
        headers = properties.headers or {}
        fields = essence_of(queue, body, method.redelivered, headers, self._names)
        self.events.append(Delivery(**fields, client=client, tag=method.delivery_tag))

    def cut(self) -> None:
        """Shut the socket under pika, which has no way to lose a connection on purpose."""
        implementation: Any = vars(self.connection)["_impl"]
        implementation._transport._sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(pika.exceptions.AMQPError):
            while self.connection.is_open:
                self.connection.process_data_events(time_limit=1)

    def _cancelled(self, frame: Any) -> None:
        queue = frame.method.consumer_tag
        self.queues.discard(queue)
        self.events.append(Gone(self._names[queue]))


class Live(Broker):
    """A real broker. What it calls a queue has a token of this adapter in front."""

    def __init__(self, url: str, version: BrokerVersion) -> None:
        self.version = version
        self._url = url
        self._token = f"conformance-{secrets.token_hex(4)}."
        self._control = pika.BlockingConnection(pika.URLParameters(url))
        self._channels: dict[str, Any] = {}
        self._clients: dict[str, _Client] = {}
        self._names: dict[str, str] = {}  # name at the broker -> name in the test
        self._queues: set[str] = set()
        self._single_active: set[str] = set()
        self._exchanges: set[str] = set()

    def dispose(self) -> None:
        """Remove all that was made."""
        for client in tuple(self._clients):
            self.close(client)
        for name in tuple(self._queues):
            self._on_control("queue_delete", queue=name)
        for name in tuple(self._exchanges):
            self._on_control("exchange_delete", exchange=name)
        self._control.close()

    def exchange(self, name: str, kind: str = "direct") -> None:
        self._exchanges.add(self._abroad(name))
        self._on_control(
            "exchange_declare", exchange=self._abroad(name), exchange_type=kind, durable=True
        )

    def declare(self, queue: Queue) -> None:
        arguments = dict(queue.arguments)
        if "x-dead-letter-exchange" in arguments:
            arguments["x-dead-letter-exchange"] = self._abroad(
                str(arguments["x-dead-letter-exchange"])
            )
        self._on_control(
            "queue_declare", queue=self._abroad(queue.name), durable=True, arguments=arguments
        )
        self._queues.add(self._abroad(queue.name))
        if arguments.get("x-single-active-consumer"):
            self._single_active.add(self._abroad(queue.name))
        for exchange, key in queue.bindings:
            self.bind(queue.name, exchange, key)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self._on_control(
            "queue_bind",
            queue=self._abroad(queue),
            exchange=self._abroad(exchange),
            routing_key=key,
        )

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        self._on_control(
            "queue_unbind",
            queue=self._abroad(queue),
            exchange=self._abroad(exchange),
            routing_key=key,
        )

    def delete(self, queue: str) -> None:
        self._on_control("queue_delete", queue=self._abroad(queue))
        self._queues.discard(self._abroad(queue))

    def publish(
        self,
        exchange: str,
        key: str,
        body: str,
        *,
        mandatory: bool = False,
        headers: Mapping[str, Any] | None = None,
    ) -> Sent:
        channel = self._channel("publish")
        properties = pika.BasicProperties(
            delivery_mode=_PERSISTENT, headers=self._headers_abroad(headers)
        )
        try:
            with _refusals():
                channel.basic_publish(
                    self._abroad(exchange), key, body.encode(), properties, mandatory=mandatory
                )
        except pika.exceptions.UnroutableError:
            # pika raises this at the confirm, for what was returned before it.
            return Sent(confirmed=True, returned=True)
        except pika.exceptions.NackError:
            return Sent(confirmed=False, returned=False)
        return Sent(confirmed=True, returned=False)

    def consume(self, client: str, queue: str, prefetch: int, begin: str = "first") -> None:
        found = self._clients.get(client)
        if found is None:
            found = self._clients[client] = _Client(self._url, self._names)
        name = self._abroad(queue)
        if name in found.queues:
            return
        offset = {"x-stream-offset": begin} if "stream" in queue else {}
        with _refusals():
            found.channel.basic_qos(prefetch_count=prefetch)
            found.channel.basic_consume(
                name,
                lambda _, method, properties, body: found.delivered(
                    client, method, properties, body
                ),
                consumer_tag=name,
                arguments=offset,
            )
        found.queues.add(name)

    def cancel(self, client: str, queue: str) -> None:
        found = self._clients[client]
        self._hear(found)
        if self._abroad(queue) in found.queues:
            found.queues.remove(self._abroad(queue))
            found.channel.basic_cancel(self._abroad(queue))

    def ack(self, delivery: Delivery) -> None:
        with _refusals():
            self._clients[delivery.client].channel.basic_ack(delivery.tag)

    def reject(self, delivery: Delivery, *, requeue: bool) -> None:
        with _refusals():
            self._clients[delivery.client].channel.basic_reject(delivery.tag, requeue=requeue)

    def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        with _refusals():
            self._clients[delivery.client].channel.basic_nack(delivery.tag, requeue=requeue)

    def lose(self, client: str) -> None:
        """Shut the socket, and wait until the broker has noticed: it counts consumers."""
        found = self._clients.pop(client, None)
        if found is None:
            return
        found.cut()
        deadline = time.monotonic() + PATIENCE_S
        if found.queues & self._single_active:
            self._control.sleep(SINGLE_ACTIVE_S)
        for name in found.queues & self._queues - self._single_active:
            left = sum(name in other.queues for other in self._clients.values())
            while self._count(name).consumer_count != left and time.monotonic() < deadline:
                self._control.sleep(0.002)

    def close(self, client: str) -> None:
        """Close the connection; the broker is done with it when this returns."""
        found = self._clients.pop(client, None)
        if found is not None and found.connection.is_open:
            with contextlib.suppress(pika.exceptions.ConnectionClosedByBroker):
                found.connection.close()

    def wait(self, milliseconds: int) -> None:
        self._control.sleep(milliseconds / 1000)

    def settle(
        self, counts: Mapping[str, int], ready: Mapping[str, int | None]
    ) -> Mapping[str, int | None]:
        """Wait until all is as expected twice in a row, or PATIENCE_S have passed."""
        deadline = time.monotonic() + PATIENCE_S
        is_quiet = 0
        while True:
            for client in self._clients.values():
                self._hear(client)
            found = {name: self._ready(name) for name in ready}
            heard = {name: len(self.events(name)) for name in counts}
            is_quiet = is_quiet + 1 if (heard, found) == (counts, ready) else 0
            if is_quiet == 2 or time.monotonic() > deadline:
                return found
            if not is_quiet:
                self._control.sleep(0.002)

    def events(self, client: str) -> tuple[Delivery | Gone, ...]:
        found = self._clients.get(client)
        return tuple(found.events) if found else ()

    def _ready(self, queue: str) -> int | None:
        try:
            return int(self._count(self._abroad(queue)).message_count)
        except Refused as error:
            if error.code == 404:
                self._queues.discard(self._abroad(queue))
                return None
            raise

    def _count(self, name: str) -> Any:
        return self._on_control("queue_declare", queue=name, passive=True).method

    def _hear(self, client: _Client) -> None:
        """Take what the broker has sent to a client.

        A queue answers a passive declare after what it has delivered on the same channel.
        """
        with _refusals():
            client.connection.process_data_events(time_limit=0)
            if not client.channel.is_open:
                raise vars(client.channel)["_closing_reason"]
            for name in tuple(client.queues):
                if name in self._queues:
                    client.channel.queue_declare(name, passive=True)
            client.connection.process_data_events(time_limit=0)

    def _channel(self, name: str) -> Any:
        channel = self._channels.get(name)
        if channel is None or not channel.is_open:
            channel = self._channels[name] = self._control.channel()
            if name == "publish":
                channel.confirm_delivery()
        return channel

    def _on_control(self, operation: str, **arguments: Any) -> Any:
        with _refusals():
            return getattr(self._channel("control"), operation)(**arguments)

    def _abroad(self, name: str) -> str:
        """Return a name of the test's as the broker gets it."""
        self._names[self._token + name] = name
        return self._token + name

    def _headers_abroad(self, headers: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return headers with the names in `x-death` as the broker knows them."""
        abroad = dict(headers or {})
        if "x-death" in abroad:
            abroad["x-death"] = [
                {**entry, "queue": self._abroad(entry["queue"])} for entry in abroad["x-death"]
            ]
        return abroad


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (
        pika.exceptions.ChannelClosedByBroker,
        pika.exceptions.ConnectionClosedByBroker,
    ) as error:
        raise Refused(error.reply_code, error.reply_text) from error

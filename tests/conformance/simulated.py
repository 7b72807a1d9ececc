"""The adapter for the simulated broker."""

from collections.abc import Mapping
from typing import Any

from conformance.adapter import Broker, Delivery, Gone, Refused, Sent, essence_of
from teardown_lab.simulator.broker import SimulatedBroker
from teardown_lab.simulator.errors import ChannelClosed
from teardown_lab.simulator.messages import Handed
from teardown_lab.simulator.versions import BrokerVersion
from vm_protocol.codec import Packet
from vm_protocol.topology import Exchange, Queue


class Simulated(Broker):
    """Each operation is complete when it returns: `settle` has nothing to wait for."""

    def __init__(self, version: BrokerVersion) -> None:
        self.version = version
        self.core = SimulatedBroker(version, exchanges=(), queues=())
        self._events: dict[str, list[Delivery | Gone]] = {}

    def exchange(self, name: str, kind: str = "direct") -> None:
        self.core.declare_exchange(Exchange(name, "fanout" if kind == "fanout" else "direct"))

    def declare(self, queue: Queue) -> None:
        self._must(self.core.declare, queue)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self._must(self.core.bind, queue, exchange, key)

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        self._must(self.core.unbind, queue, exchange, key)

    def delete(self, queue: str) -> None:
        self.core.delete(queue)

    def publish(
        self,
        exchange: str,
        key: str,
        body: str,
        *,
        mandatory: bool = False,
        headers: Mapping[str, Any] | None = None,
    ) -> Sent:
        packet = Packet(body.encode(), {}, dict(headers or {}))
        published = self._must(self.core.publish, exchange, key, packet, mandatory=mandatory)
        return Sent(confirmed=True, returned=published.returned)

    def consume(self, client: str, queue: str, prefetch: int, begin: str = "first") -> None:
        self._must(self.core.consume, client, queue, prefetch, begin)

    def cancel(self, client: str, queue: str) -> None:
        self.core.cancel(client, queue)

    def ack(self, delivery: Delivery) -> None:
        self._must(self.core.ack, delivery.tag)

    def reject(self, delivery: Delivery, *, requeue: bool) -> None:
        self._must(self.core.reject, delivery.tag, requeue=requeue)

    def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        self._must(self.core.nack, delivery.tag, requeue=requeue)

    def lose(self, client: str) -> None:
        self.core.lose(client)
        self._events.pop(client, None)

    def close(self, client: str) -> None:
        self.core.close(client)
        self._events.pop(client, None)

    def wait(self, milliseconds: int) -> None:
        self.core.advance_to(self.core.now_ns + milliseconds * 1_000_000)

    def settle(
        self, counts: Mapping[str, int], ready: Mapping[str, int | None]
    ) -> Mapping[str, int | None]:
        return {queue: self.ready(queue) for queue in ready}

    def events(self, client: str) -> tuple[Delivery | Gone, ...]:
        while (event := self.core.next_event()) is not None:
            if isinstance(event, Handed):
                fields = essence_of(
                    event.queue, event.packet.body, event.redelivered, event.packet.headers, {}
                )
                seen: Delivery | Gone = Delivery(**fields, client=event.actor, tag=event.number)
            else:
                seen = Gone(event.queue)
            self._events.setdefault(event.actor, []).append(seen)
        return tuple(self._events.get(client, ()))

    def ready(self, queue: str) -> int | None:
        return self.core.ready_count(queue) if self.core.has_queue(queue) else None

    def _must(self, operation: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return operation(*arguments, **named)
        except ChannelClosed as error:
            raise Refused(error.code, str(error)) from error

"""A queue's `x-` arguments, checked: what is not simulated is refused, not ignored."""

from dataclasses import dataclass, fields
from typing import Final

from teardown_lab.simulator.errors import NotSimulated
from vm_protocol.topology import ArgumentValue, Queue

_FIELDS: Final = {
    "x-dead-letter-exchange": "dead_letter_exchange",
    "x-dead-letter-routing-key": "dead_letter_routing_key",
    "x-message-ttl": "message_ttl_ms",
    "x-max-length": "max_length",
    "x-expires": "expires_ms",
    "x-delivery-limit": "delivery_limit",
    "x-single-active-consumer": "single_active_consumer",
}
_KNOWN: Final = {
    # A classic queue with a single active consumer is not simulated: after a cancellation 3.10.8
    # serves nobody, and the next publish kills the queue (seen).
    "classic": frozenset(_FIELDS) - {"x-delivery-limit", "x-single-active-consumer"},
    # A quorum queue looks at its own x-expires only every five seconds (seen): it goes later.
    "quorum": frozenset(_FIELDS),
    # Retention is not simulated: a simulated stream keeps all, as a real one does below its bound.
    "stream": frozenset({"x-max-length-bytes", "x-stream-max-segment-size-bytes"}),
}


@dataclass(frozen=True, slots=True)
class QueueArguments:
    """The arguments of one queue by name; None is one that was not given.

    Sources: dlx, ttl, maxlength (overflow is drop-head), quorum-queues, consumers (single active).
    """

    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    message_ttl_ms: int | None = None
    max_length: int | None = None
    expires_ms: int | None = None
    delivery_limit: int | None = None
    single_active_consumer: bool = False


def arguments_of(queue: Queue) -> QueueArguments:
    """Return a queue's arguments.

    Raises:
        NotSimulated: An argument, or the queue's type, has no rule here.
    """
    if queue.kind not in _KNOWN:
        raise NotSimulated(f"queue {queue.name}: type {queue.kind!r} is not simulated")
    given: dict[str, ArgumentValue] = {}
    for name, value in queue.arguments:
        if name != "x-queue-type":
            if name not in _KNOWN[queue.kind]:
                raise NotSimulated(f"queue {queue.name} ({queue.kind}): {name} is not simulated")
            if isinstance(value, int) and value < 0:
                raise NotSimulated(f"queue {queue.name}: {name}={value} is not simulated")
            if name in _FIELDS:
                given[_FIELDS[name]] = value
    assert given.keys() <= {field.name for field in fields(QueueArguments)}
    return QueueArguments(**given)  # type: ignore[arg-type]  # values come from typed topology

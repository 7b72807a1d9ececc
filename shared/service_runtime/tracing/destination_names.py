"""Names of destinations in spans, by OpenTelemetry's conventions for RabbitMQ.

`{exchange}:{routing key}` where a message is sent, `{exchange}:{routing key}:{queue}` where it is
consumed; a queue that is named like its routing key is said once. The template has no ids in it:
span names are made of it, and they must stay few.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from vm_protocol import topology
from vm_protocol.topology import parse_mailbox

_BINDINGS: Final = {queue.name: queue.bindings[0] for queue in topology.SHARED_QUEUES}
_EXCHANGES: Final = {"AsyncPfCompleted": topology.ASYNC_PF.name}
"""Messages that come into a queue by its second binding."""

_OWNERS: Final = (
    (re.compile(r"^worker\.[^.]+\."), "worker.{worker}."),
    (re.compile(r"^client\.[^.]+\."), "client.{vm}."),
)
_CACHED: Final = 4096


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination's name, its routing key, and its template."""

    name: str
    routing_key: str
    template: str


@lru_cache(_CACHED)
def sent_to(exchange: str, routing_key: str) -> Destination:
    """Return the destination of a publish."""
    key = "{vm}" if exchange == topology.REQUESTS.name else _template(routing_key)
    return Destination(f"{exchange}:{routing_key}", routing_key, f"{exchange}:{key}")


@lru_cache(_CACHED)
def consumed_from(queue: str, message_type: str | None = None) -> Destination:
    """Return the destination of a delivery, by its queue's binding for messages of that type."""
    exchange, key = _binding(queue)
    sent = sent_to(_EXCHANGES.get(message_type or "", exchange), key)
    if sent.routing_key == queue:
        return sent
    template = f"{sent.template}:{_template(queue)}"
    return Destination(f"{sent.name}:{queue}", sent.routing_key, template)


def dead_letter_of(queue: str) -> Destination:
    """Return the destination of a dead letter that has left a queue: it keeps its routing key."""
    exchange, letters = topology.DEAD_LETTERS.name, topology.DEAD_LETTERS_QUEUE.name
    sent = sent_to(*_binding(queue))
    key = sent.template.partition(":")[2]
    name = f"{exchange}:{sent.routing_key}:{letters}"
    return Destination(name, sent.routing_key, f"{exchange}:{key}:{letters}")


def _binding(queue: str) -> tuple[str, str]:
    """Return the exchange and routing key by which (most) messages come into a queue."""
    mailbox = parse_mailbox(queue)
    if mailbox is not None:
        return topology.REQUESTS.name, mailbox.vm
    if queue in _BINDINGS:
        return _BINDINGS[queue]
    exchange = topology.REPLIES if queue.endswith(".replies") else topology.COMMANDS
    return exchange.name, queue


def _template(name: str) -> str:
    if parse_mailbox(name) is not None:
        return "vcpu.{vm}.{vcpu}.{incarnation}"
    for pattern, text in _OWNERS:
        name = pattern.sub(text, name)
    return name

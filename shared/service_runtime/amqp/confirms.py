"""Which publishes are confirmed, and which acknowledgements wait for them; no broker in sight.

Confirms arrive in any order and may be `multiple` (RabbitMQ: confirms). What is not confirmed
when a connection is lost is published again on the next one: receivers know duplicates by id.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from vm_protocol import codec, limits, topology
from vm_protocol.codec import Packet
from vm_protocol.recorder import Send
from vm_protocol.wire import Record

_EXCHANGES: Final = frozenset(exchange.name for exchange in topology.EXCHANGES)
_KEY_BYTES_MAX: Final = 255
"""AMQP 0-9-1's short string."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A packet on its way to an exchange."""

    exchange: str
    routing_key: str
    packet: Packet
    mandatory: bool

    @classmethod
    def of(cls, send: Send) -> "Outgoing":
        """Return what a core's message is to the broker."""
        publish = send.publish
        packet = codec.encode(publish.message, send.envelope)
        return cls(publish.exchange, publish.routing_key, packet, publish.mandatory)

    @property
    def is_possible(self) -> bool:
        """Tell whether there is such an exchange of ours, and such a key in AMQP."""
        return self.exchange in _EXCHANGES and len(self.routing_key.encode()) <= _KEY_BYTES_MAX


def journal_batches(records: Sequence[Record]) -> Iterator[Outgoing]:
    """Yield the journal messages that carry these records, in order."""
    exchange, key = topology.JOURNAL_QUEUE.bindings[0]
    size = limits.JOURNAL_BATCH_RECORDS_MAX
    for first in range(0, len(records), size):
        body = codec.encode_records(tuple(records[first : first + size]))
        yield Outgoing(exchange, key, Packet(body, {"type": "Records"}, {}), mandatory=False)


@dataclass(slots=True)
class Batch:
    """What all handlers that ran together asked for, and the settlements behind it.

    `settle` runs once, when the batch is sealed and nothing in it is unconfirmed. `refusal_count`
    is how often the present session's broker has refused something in it.
    """

    settle: Callable[[], None]
    open_count: int = 0
    sealed: bool = False
    settled: bool = False
    refusal_count: int = 0

    def seal(self) -> None:
        """Say that no further publish joins the batch."""
        self.sealed = True
        self._settle_if_done()

    def confirmed(self) -> None:
        """Take one publish or other action of the batch as done."""
        self.open_count -= 1
        self._settle_if_done()

    def _settle_if_done(self) -> None:
        # Before it is sealed, nothing may be open merely because its publishes are yet to come.
        if self.sealed and self.open_count == 0 and not self.settled:
            self.settled = True
            self.settle()


Publication = tuple[Outgoing, Batch]


@dataclass(slots=True)
class ConfirmTracker:
    """Publishes of one channel by their sequence number, which counts from 1.

    What the broker refuses stays here, unconfirmed, until it is taken to be published again.
    """

    _next: int = 1
    _open: dict[int, Publication] = field(default_factory=dict)
    _refused: dict[int, Publication] = field(default_factory=dict)

    def published(self, outgoing: Outgoing, batch: Batch) -> None:
        """Note a publish of `batch`, which counts it as open already."""
        self._open[self._next] = (outgoing, batch)
        self._next += 1

    def confirmed(self, tag: int, *, multiple: bool) -> None:
        """Take a `basic.ack` of the broker."""
        for number in self._numbers(tag, multiple=multiple):
            _, batch = self._open.pop(number)
            batch.confirmed()

    def refused(self, tag: int, *, multiple: bool) -> list[Publication]:
        """Take a `basic.nack` of the broker; return the publishes that it refuses."""
        numbers = self._numbers(tag, multiple=multiple)
        for number in numbers:
            self._refused[number] = self._open.pop(number)
            self._refused[number][1].refusal_count += 1
        return [self._refused[number] for number in numbers]

    def take_refused(self) -> list[Publication]:
        """Return what the broker refused, in the order of publishing, and forget it."""
        taken = [self._refused[number] for number in sorted(self._refused)]
        self._refused.clear()
        return taken

    def oldest(self) -> int | None:
        """Return the number of the first publish that the broker has said nothing of."""
        return next(iter(self._open), None)

    def unconfirmed(self) -> list[Publication]:
        """Return what is not confirmed, in the order of publishing."""
        left = {**self._open, **self._refused}
        return [left[number] for number in sorted(left)]

    def awaits(self, exchange: str, routing_key: str) -> bool:
        """Tell whether a publish with this key is not confirmed."""
        left = (*self._open.values(), *self._refused.values())
        return any((out.exchange, out.routing_key) == (exchange, routing_key) for out, _ in left)

    def __len__(self) -> int:
        return len(self._open) + len(self._refused)

    def _numbers(self, tag: int, *, multiple: bool) -> list[int]:
        if multiple:  # numbers grow in the order of the dictionary
            return list(takewhile(lambda number: number <= tag, self._open))
        return [tag] if tag in self._open else []

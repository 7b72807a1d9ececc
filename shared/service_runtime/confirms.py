"""Which publishes are confirmed, and which acknowledgements wait for them; no broker in sight.

Confirms arrive in any order and may be `multiple` (RabbitMQ: confirms). What is not confirmed
when a connection is lost is published again on the next one: receivers know duplicates by id.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from vm_protocol.codec import Packet


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A packet on its way to an exchange."""

    exchange: str
    routing_key: str
    packet: Packet
    mandatory: bool


@dataclass(slots=True)
class Batch:
    """The publishes of all handlers run on one socket read, and the settlements behind them.

    `settle` runs once, when the batch is sealed and nothing in it is unconfirmed.
    """

    settle: Callable[[], None]
    open_count: int = 0
    sealed: bool = False
    settled: bool = False

    def seal(self) -> None:
        """Say that no further publish joins the batch."""
        self.sealed = True
        self._settle_if_done()

    def confirmed(self) -> None:
        """Take one publish of the batch as confirmed."""
        self.open_count -= 1
        self._settle_if_done()

    def _settle_if_done(self) -> None:
        if self.sealed and self.open_count == 0 and not self.settled:
            self.settled = True
            self.settle()


@dataclass(slots=True)
class ConfirmTracker:
    """Publishes of one channel by their sequence number, which counts from 1."""

    _next: int = 1
    _open: dict[int, tuple[Outgoing, Batch]] = field(default_factory=dict)

    def published(self, outgoing: Outgoing, batch: Batch) -> None:
        """Note a publish that joins `batch`; its batch already counts it when it is a repeat."""
        self._open[self._next] = (outgoing, batch)
        self._next += 1

    def confirmed(self, tag: int, *, multiple: bool) -> None:
        """Take a `basic.ack` of the broker."""
        for _, batch in self._take(tag, multiple=multiple):
            batch.confirmed()

    def refused(self, tag: int, *, multiple: bool) -> list[tuple[Outgoing, Batch]]:
        """Take a `basic.nack` of the broker; return what has to be published again."""
        return self._take(tag, multiple=multiple)

    def unconfirmed(self) -> list[tuple[Outgoing, Batch]]:
        """Return what is open, in the order of publishing."""
        return list(self._open.values())

    def __len__(self) -> int:
        return len(self._open)

    def _take(self, tag: int, *, multiple: bool) -> list[tuple[Outgoing, Batch]]:
        if not multiple:
            found = self._open.pop(tag, None)
            return [] if found is None else [found]
        tags = [number for number in self._open if number <= tag]
        return [self._open.pop(number) for number in tags]

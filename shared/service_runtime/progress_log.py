"""Writes the managers' log: an entry first, and what follows from it once that is confirmed.

One object for each tenure (docs/recovery.md). Entries go out as fast as inputs come, nobody waits
for one before the next is written; what follows from them is let out in their order.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel

from service_runtime.amqp.confirms import Batch, Outgoing
from service_runtime.amqp.publishing import Publishing
from vm_protocol import limits, progress
from vm_protocol.actor import Actor
from vm_protocol.codec import Packet
from vm_protocol.progress import Arrival, Delivered, LogEntry, Position
from vm_protocol.recovery import Recovery
from vm_protocol.topology import PROGRESS_QUEUE


def outgoing(message: BaseModel) -> Outgoing:
    """Return a message of the log on its way there."""
    exchange, key = PROGRESS_QUEUE.bindings[0]
    body = message.model_dump_json(exclude_defaults=True, exclude={"type"})
    kind = type(message).__name__
    text = f'{{"type":"{kind}",{body[1:]}'
    return Outgoing(exchange, key, Packet(text.encode(), {"type": kind}, {}), mandatory=True)


@dataclass(slots=True)
class _Written:
    """An entry on its way: what follows from it, and whether the broker has confirmed it."""

    let_out: Callable[[], None]
    is_confirmed: bool = False


class Performances:
    """Entries in their order, and up to which of them everything is performed."""

    def __init__(self, performed: Position) -> None:
        self.upto = performed
        self._open: deque[Position] = deque()
        self._done: set[Position] = set()

    def begin(self, position: Position) -> None:
        """Take note of an entry that is to be performed; they begin in their order."""
        self._open.append(position)

    def end(self, position: Position) -> None:
        """Take note that all that was asked for in an entry is confirmed."""
        self._done.add(position)
        while self._open and self._open[0] in self._done:
            self.upto = self._open.popleft()
            self._done.discard(self.upto)

    @property
    def is_over(self) -> bool:
        """Tell whether all that began has ended."""
        return not self._open


class ProgressLog:
    """The log of one tenure, which begins with what `recovery` has found.

    Between `open` and `close`, `note` takes the inputs that the actor is stepped with.
    """

    def __init__(
        self,
        actor: Actor[Any],
        publishing: Publishing,
        recovery: Recovery,
    ) -> None:
        self._actor = actor
        self._publishing = publishing
        self._elected_at = recovery.epoch - 1
        self._alive_from, self._alive = recovery.alive_from, recovery.alive
        self._number = 0
        self._inputs: list[Arrival] = []
        self._bytes = 0
        self._before = (0, 0)
        self._written: deque[_Written] = deque()
        self._later: asyncio.TimerHandle | None = None
        self._told = recovery.performed
        self._has_ended = False
        self.epoch = recovery.epoch
        self.on_entry: Callable[[], None] = lambda: None
        self.writes_ahead = True
        self.performances = Performances(recovery.performed)

    def open(self) -> None:
        """Begin an entry, before the actor is stepped."""
        recorder = self._actor.recorder
        recorder.entry = self._number + 1
        self._before = recorder.position
        if self._actor.is_as_new:
            # At least at this offset: the broker counts the Elected and all entries after it.
            self._alive_from = self._elected_at + self._number + 1
            self._alive = (self.epoch, self._number + 1)
        self._inputs = []
        self._bytes = 0

    def note(self, arrival: Arrival) -> None:
        """Take an input that the actor is about to handle."""
        self._inputs.append(arrival)
        if isinstance(arrival, Delivered):
            self._bytes += min(len(arrival.delivery.packet.body), limits.MESSAGE_BYTES_MAX)

    @property
    def is_full(self) -> bool:
        """Tell whether the entry is to be closed."""
        return len(self._inputs) >= limits.ENTRY_INPUTS_MAX or self._bytes >= limits.ENTRY_BYTES_MAX

    @property
    def is_open(self) -> bool:
        """Tell whether an entry is not confirmed, so that something is still held back."""
        return bool(self._written)

    def close(self, batch: Batch, let_out: Callable[[], None]) -> None:
        """Write the entry; have it `let_out` once it is confirmed, and noted when `batch` is done.

        Without inputs, nothing has happened and nothing is written.
        """
        if not (self._inputs and self.writes_ahead):
            let_out()
            return
        position = (self.epoch, self._number + 1)
        self.performances.begin(position)
        batch.settle = partial(self._performed, position, batch.settle)
        self._write(tuple(progress.logged(each) for each in self._inputs), let_out)

    def _write(self, inputs: Iterable[Any], let_out: Callable[[], None]) -> None:
        self._number += 1
        self.on_entry()
        self._told = self.performances.upto
        entry = LogEntry.model_construct(
            epoch=self.epoch,
            number=self._number,
            seq=self._before[0],
            lamport=self._before[1],
            performed=self._told,
            alive_from=self._alive_from,
            alive=self._alive,
            inputs=tuple(inputs),
        )
        written = _Written(let_out)
        self._written.append(written)
        batch = Batch(partial(self._confirmed, written), open_count=1)
        batch.seal()
        self._publishing.publish(outgoing(entry), batch)

    def _confirmed(self, written: _Written) -> None:
        written.is_confirmed = True
        while self._written and self._written[0].is_confirmed:
            self._written.popleft().let_out()

    # --- what is performed -------------------------------------------------------------------

    def _performed(self, position: Position, settle: Callable[[], None]) -> None:
        settle()
        self.performed(position)

    def performed(self, position: Position) -> None:
        """Take note that an entry was performed; say so later, if no further entry does."""
        self.performances.end(position)
        if self._later is None and not self._has_ended:
            loop = asyncio.get_running_loop()
            self._later = loop.call_later(limits.PERFORMED_MS / 1000, self.tell)

    def tell(self) -> None:
        """Write an entry without inputs when all is performed, so that nothing is done again."""
        self._later = None
        if self.is_open or not self.performances.is_over or self._told == self.performances.upto:
            return
        self.open()
        self._write((), lambda: None)

    def end(self) -> None:
        """End the tenure."""
        self._has_ended = True
        if self._later is not None:
            self._later.cancel()

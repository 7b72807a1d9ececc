"""Consumers of one queue, and whose turn it is (consumers: prefetch, fair dispatch)."""

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Consumer:
    """A consumer: at most `prefetch` of its deliveries are unsettled; `offset` is a stream's."""

    actor: str
    queue: str
    prefetch: int
    unsettled_count: int = 0
    offset: int = 0
    is_cancelled: bool = False

    @property
    def has_room(self) -> bool:
        """Tell whether it may get one more delivery."""
        return not self.is_cancelled and self.unsettled_count < self.prefetch


class Turns:
    """Consumers that compete for one queue, served in turn.

    Who has room again after having had none goes to the end of the line. A quorum queue takes a
    full consumer out of the line at once; a classic one when it comes upon it, so that a consumer
    which gets room before that keeps its place (seen: both series).
    """

    def __init__(self, *, drops_full_at_once: bool) -> None:
        self._drops_full_at_once = drops_full_at_once
        self._line: deque[Consumer] = deque()
        self.all: list[Consumer] = []

    def add(self, consumer: Consumer) -> None:
        """Add a consumer at the end of the line."""
        self.all.append(consumer)
        self._line.append(consumer)

    def remove(self, consumer: Consumer) -> None:
        """Remove a consumer."""
        self.all.remove(consumer)
        if consumer in self._line:
            self._line.remove(consumer)

    def next(self) -> Consumer | None:
        """Return the consumer whose turn it is, None if none has room; it goes to the end."""
        while self._line:
            consumer = self._line.popleft()
            if consumer.has_room:
                if not self._drops_full_at_once or consumer.unsettled_count + 1 < consumer.prefetch:
                    self._line.append(consumer)
                return consumer
        return None

    def settled(self, consumer: Consumer) -> None:
        """Take note that a consumer may have room again."""
        if consumer in self.all and consumer not in self._line and consumer.has_room:
            self._line.append(consumer)


class SingleActive(Turns):
    """Only one consumer gets anything, until it leaves (consumers: single active consumer).

    Then another takes over at once, even while the old one still holds deliveries.
    """

    def __init__(self, *, drops_full_at_once: bool, prefers_most_room: bool) -> None:
        super().__init__(drops_full_at_once=drops_full_at_once)
        self._prefers_most_room = prefers_most_room
        self._active: Consumer | None = None

    def add(self, consumer: Consumer) -> None:
        """Add a consumer; the first one is active."""
        super().add(consumer)
        self._active = self._active or consumer

    def remove(self, consumer: Consumer) -> None:
        """Remove a consumer; if it was the active one, choose the next."""
        super().remove(consumer)
        if consumer is self._active:
            self._active = self._successor()

    def next(self) -> Consumer | None:
        """Return the active consumer if it has room."""
        return self._active if self._active is not None and self._active.has_room else None

    def _successor(self) -> Consumer | None:
        if self._prefers_most_room:
            return max(self.all, key=lambda each: each.prefetch, default=None)
        return next(iter(self.all), None)

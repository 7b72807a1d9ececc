"""What lies in queues and in consumers' hands, interned; each change is computed once."""

from collections.abc import Callable

from teardown_lab.explorer.interning import Interned

QueuedLetter = tuple[int, int, bool]
"""A message in a queue: its letter, how often it was returned, whether it was posted late."""

Tagged = tuple[int, QueuedLetter]
"""An entry, and the number of the queue that it lies in or came from."""


class Contents(Interned[tuple[QueuedLetter, ...]]):
    """What queues hold, head first; number 0 is the empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.number(())
        self._appended: dict[tuple[int, QueuedLetter], int] = {}
        self._popped: dict[int, tuple[QueuedLetter, int]] = {}

    def append(self, content: int, entry: QueuedLetter) -> int:
        """Return the content with an entry behind all others."""
        key = (content, entry)
        known = self._appended.get(key)
        if known is None:
            known = self._appended[key] = self.number((*self.value(content), entry))
        return known

    def pop(self, content: int) -> tuple[QueuedLetter, int]:
        """Return the head, and the content without it."""
        known = self._popped.get(content)
        if known is None:
            head, *rest = self.value(content)
            known = self._popped[content] = (head, self.number(tuple(rest)))
        return known

    def put_back(self, content: int, entry: QueuedLetter) -> int:
        """Return the content with an entry before all others, and count its return."""
        letter, returns, is_late = entry
        return self.number(((letter, returns + 1, is_late), *self.value(content)))


class Hands(Interned[tuple[Tagged, ...]]):
    """Sorted entries outside of any queue: held by a consumer, or floating; number 0 is none.

    `identity` gives the message id of a letter, which is what consumers settle by.
    """

    def __init__(self, identity: Callable[[int], str]) -> None:
        super().__init__()
        self.number(())
        self._identity = identity
        self._added: dict[tuple[int, int, QueuedLetter], int] = {}
        self._settled: dict[tuple[int, int, str], int] = {}

    def add(self, hands: int, queue: int, entry: QueuedLetter) -> int:
        """Return them with one entry more."""
        key = (hands, queue, entry)
        known = self._added.get(key)
        if known is None:
            entries = (*self.value(hands), (queue, entry))
            known = self._added[key] = self.number(tuple(sorted(entries)))
        return known

    def take(self, hands: int, index: int) -> tuple[Tagged, int]:
        """Return an entry by its place, and the others."""
        entries = list(self.value(hands))
        taken = entries.pop(index)
        return taken, self.number(tuple(entries))

    def settle(self, hands: int, queue: int, message_id: str) -> int:
        """Return them without what a consumer's Ack or Reject of this message takes off."""
        key = (hands, queue, message_id)
        known = self._settled.get(key)
        if known is None:
            left = [each for each in self.value(hands) if not self.is_of(each, queue, message_id)]
            known = self._settled[key] = self.number(tuple(left))
        return known

    def is_of(self, tagged: Tagged, queue: int, message_id: str) -> bool:
        """Tell whether an entry is a delivery of this message from this queue."""
        return tagged[0] == queue and self._identity(tagged[1][0]) == message_id

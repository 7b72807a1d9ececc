"""Classic and quorum queues: what is ready, what a return does to it, what dies."""

import heapq
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import replace
from typing import Any

from teardown_lab.simulator import dead_letters
from teardown_lab.simulator.arguments import QueueArguments, arguments_of
from teardown_lab.simulator.consumers import SingleActive, Turns
from teardown_lab.simulator.messages import Stored, with_headers
from teardown_lab.simulator.versions import BrokerVersion, Ending
from vm_protocol.codec import Packet
from vm_protocol.topology import Queue

Dying = tuple[Stored, str]
"""A message that leaves its queue to be dead-lettered, and the reason."""


class OrdinaryQueue(ABC):
    """What both types have in common; at `lease_ns` an unused queue expires."""

    drops_full_consumers_at_once = False

    def __init__(self, queue: Queue, version: BrokerVersion) -> None:
        self.queue = queue
        self.name = queue.name
        self.version = version
        self.arguments: QueueArguments = arguments_of(queue)
        self.lease_ns: int | None = None
        self.consumers = self._turns()

    def _turns(self) -> Turns:
        at_once = self.drops_full_consumers_at_once
        if self.arguments.single_active_consumer:
            most = self.version.successor_has_most_room
            return SingleActive(drops_full_at_once=at_once, prefers_most_room=most)
        return Turns(drops_full_at_once=at_once)

    @property
    @abstractmethod
    def ready_count(self) -> int:
        """Count the messages that nobody holds; only they count for limits (maxlength)."""

    @abstractmethod
    def head(self) -> Stored | None:
        """Return the message that is delivered, dropped or expires next."""

    @abstractmethod
    def push(self, message: Stored) -> None:
        """Put a published message at the end."""

    @abstractmethod
    def take(self) -> Stored:
        """Take the head."""

    @property
    def counts_failures(self) -> bool:
        """Tell whether this queue counts failed deliveries."""
        return self.version.classic_counts_failures

    def is_redelivery(self, message: Stored, *, is_direct: bool) -> bool:
        """Tell whether a delivery is flagged as redelivered.

        Args:
            message: What is delivered.
            is_direct: It goes to a consumer without having waited in the queue.
        """
        return message.returns > 0 or (self.counts_failures and message.failures > 0)

    def as_delivered(self, message: Stored) -> Packet:
        """Return what a consumer gets."""
        return message.packet

    def failed(self, message: Stored, why: Ending) -> Stored:
        """Return a message after a delivery that ended so."""
        counts = self.counts_failures and why in self.version.failures
        return replace(message, failures=message.failures + counts)

    @abstractmethod
    def give_back(self, messages: list[Stored], why: Ending) -> list[Dying]:
        """Take deliveries back; return those that die of it."""

    def renew_lease(self, now_ns: int) -> None:
        """Start the time after which the queue expires if it stays unused (ttl: queue TTL)."""
        if self.arguments.expires_ms is not None and not self.consumers.all:
            self.lease_ns = now_ns + self.arguments.expires_ms * 1_000_000

    def due_ns(self) -> int | None:
        """Return when something in this queue expires next: its head, or the queue itself."""
        head = self.head()
        times = [
            time_ns
            for time_ns in (head.expires_ns if head else None, self.lease_ns)
            if time_ns is not None
        ]
        return min(times, default=None)

    def expire(self, now_ns: int) -> list[Dying]:
        """Take what has expired at the head; what is behind a younger head waits (ttl: caveats)."""
        dying: list[Dying] = []
        while (head := self.head()) and head.expires_ns is not None and head.expires_ns <= now_ns:
            dying.append((self.take(), dead_letters.EXPIRED))
        return dying

    def drop_excess(self) -> list[Dying]:
        """Take from the head what is beyond the length limit (maxlength: drop-head)."""
        dying: list[Dying] = []
        limit = self.arguments.max_length
        while limit is not None and self.ready_count > limit:
            dying.append((self.take(), dead_letters.MAXLEN))
        return dying


class ClassicQueue(OrdinaryQueue):
    """A requeued message goes back to its old place (confirms: negative acknowledgements)."""

    def __init__(self, queue: Queue, version: BrokerVersion) -> None:
        super().__init__(queue, version)
        self._ready: list[tuple[int, Stored]] = []

    @property
    def ready_count(self) -> int:
        """See OrdinaryQueue."""
        return len(self._ready)

    def head(self) -> Stored | None:
        """See OrdinaryQueue."""
        return self._ready[0][1] if self._ready else None

    def push(self, message: Stored) -> None:
        """See OrdinaryQueue."""
        heapq.heappush(self._ready, (message.position, message))

    def take(self) -> Stored:
        """See OrdinaryQueue."""
        return heapq.heappop(self._ready)[1]

    def is_redelivery(self, message: Stored, *, is_direct: bool) -> bool:
        """See OrdinaryQueue; failures elsewhere are overlooked if somebody waits (seen: 4.3.6)."""
        return not is_direct and super().is_redelivery(message, is_direct=is_direct)

    def give_back(self, messages: list[Stored], why: Ending) -> list[Dying]:
        """See OrdinaryQueue; nothing dies of it."""
        for message in messages:
            self.push(replace(self.failed(message, why), returns=message.returns + 1))
        return []


class QuorumQueue(OrdinaryQueue):
    """Returned messages form a queue of their own, served first, in the order of their return.

    Without any delivery limit, what a consumer returns goes to the very end instead, so that the
    log can be truncated (quorum-queues: repeated requeues).

    Failed deliveries are counted, and beyond the limit a message dies (quorum-queues: poison
    message handling). All that a lost consumer held has failed.
    """

    drops_full_consumers_at_once = True

    def __init__(self, queue: Queue, version: BrokerVersion) -> None:
        super().__init__(queue, version)
        self._returned: deque[Stored] = deque()
        self._ready: deque[Stored] = deque()
        limit = self.arguments.delivery_limit
        self._limit = version.delivery_limit_default if limit is None else limit

    @property
    def ready_count(self) -> int:
        """See OrdinaryQueue."""
        return len(self._returned) + len(self._ready)

    def head(self) -> Stored | None:
        """See OrdinaryQueue."""
        first = self._returned or self._ready
        return first[0] if first else None

    def push(self, message: Stored) -> None:
        """See OrdinaryQueue."""
        self._ready.append(message)

    def take(self) -> Stored:
        """See OrdinaryQueue."""
        return (self._returned or self._ready).popleft()

    @property
    def counts_failures(self) -> bool:
        """See OrdinaryQueue."""
        return True

    def as_delivered(self, message: Stored) -> Packet:
        """See OrdinaryQueue; failures in earlier queues show until this queue has its own say."""
        headers: dict[str, Any] = {}
        if count := self._counted(message) or message.failures:
            headers["x-delivery-count"] = count
        if self.version.has_acquired_count and (message.returns or message.failures):
            headers["x-acquired-count"] = message.returns or message.failures
        return with_headers(message.packet, headers) if headers else message.packet

    def give_back(self, messages: list[Stored], why: Ending) -> list[Dying]:
        """See OrdinaryQueue."""
        dying: list[Dying] = []
        for message in messages:
            again = replace(self.failed(message, why), returns=message.returns + 1)
            if self._limit is not None and self._counted(again) > self._limit:
                dying.append((again, dead_letters.BY_DELIVERY_LIMIT))
            elif self._limit is None and why is not Ending.LOST:
                self._ready.append(again)
            else:
                self._returned.append(again)
        return dying

    def _counted(self, message: Stored) -> int:
        return message.returns if self.version.limit_counts_returns else message.failures


def ordinary_queue(queue: Queue, version: BrokerVersion) -> OrdinaryQueue:
    """Return an empty queue of the type that its arguments ask for."""
    return QuorumQueue(queue, version) if queue.kind == "quorum" else ClassicQueue(queue, version)

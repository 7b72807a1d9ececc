"""When something in a queue expires next: a heap whose stale entries are skipped."""

import heapq
from collections.abc import Mapping

from teardown_lab.simulator.queues import OrdinaryQueue


class Expiries:
    """The times at which queues have something due, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._noted: dict[str, int] = {}

    def note(self, queue: OrdinaryQueue) -> None:
        """Take note of when a queue that has changed is due."""
        due_ns = queue.due_ns()
        if due_ns is not None and self._noted.get(queue.name) != due_ns:
            self._noted[queue.name] = due_ns
            heapq.heappush(self._heap, (due_ns, queue.name))

    def next(self, queues: Mapping[str, OrdinaryQueue]) -> tuple[int, OrdinaryQueue] | None:
        """Return the earliest time, and the queue that is due then."""
        while self._heap:
            due_ns, name = self._heap[0]
            queue = queues.get(name)
            if queue is not None and queue.due_ns() == due_ns:
                return due_ns, queue
            heapq.heappop(self._heap)
            if self._noted.get(name) == due_ns:
                del self._noted[name]
        return None

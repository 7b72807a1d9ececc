"""Connections cut at chosen moments of a run."""

from collections.abc import Callable

from vm_protocol.observations import Event
from vm_protocol.wire import Record


class Cuts:
    """Cuts all connections when the n-th records after a first event arrive."""

    def __init__(self, cut: Callable[[], None], moments: set[int], first: Event) -> None:
        self._cut = cut
        self._moments = moments
        self._first = first
        self._seen = 0

    def __call__(self, record: Record) -> None:
        if self._seen or record.event == self._first:
            self._seen += 1
        if self._seen in self._moments:
            self._cut()

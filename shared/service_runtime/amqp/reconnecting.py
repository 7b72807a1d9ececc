"""Which host of a cluster a driver tries next, and how long it waits before that; no clock here."""

from itertools import cycle, islice
from zlib import crc32

from service_runtime.amqp.endpoint import Endpoint
from vm_protocol import limits


class Reconnecting:
    """Hosts in turn, with a pause that doubles until a session has done what waited for it.

    Which host a service tries first depends on its name. That spreads the connections over a
    cluster's nodes, and gives each service the same order every time, so that its log can be
    followed.
    """

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        endpoints = endpoint.each()
        # A hash that is the same in every process, as Python's own is not.
        first = crc32(name.encode()) % len(endpoints)
        self._turns = islice(cycle(endpoints), first, None)
        self._pause_ms = limits.RECONNECT_MS_MIN

    def next_endpoint(self) -> Endpoint:
        """Return where to connect now."""
        return next(self._turns)

    def caught_up(self) -> None:
        """Take note that a session works.

        One that only connects does not: it may be lost again over the same action each time.
        """
        self._pause_ms = limits.RECONNECT_MS_MIN

    def pause_ms(self) -> int:
        """Return how long to wait before the next attempt; the one after that waits longer."""
        pause_ms = self._pause_ms
        self._pause_ms = min(pause_ms * 2, limits.RECONNECT_MS_MAX)
        return pause_ms

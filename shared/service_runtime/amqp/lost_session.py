"""Why a session is lost, told from what the broker or pika says, and where to connect next."""

from itertools import cycle, islice
from typing import Final
from zlib import crc32

from pika.exceptions import ChannelClosed

from service_runtime.amqp.endpoint import Endpoint, reason_of
from vm_protocol import limits

_NOT_FOUND: Final = 404
_PRECONDITION_FAILED: Final = 406
_HOME_NODE_DOWN: Final = "is down or inaccessible"
"""The end of what is said of a classic queue whose node is away (seen in 3.10); also a 404."""


class SessionLost(Exception):
    """The connection or its channel is gone; every delivery tag with it."""


class TopologyMismatch(Exception):
    """The broker holds a queue or exchange of this name with other arguments (406)."""


class TopologyMissing(SessionLost):
    """The broker lacks an exchange or shared queue that was to be there already (404)."""


class QueueMissing(SessionLost):
    """The broker has no queue of this name (404)."""


def is_missing(error: object) -> bool:
    """Tell whether the broker closed a channel because something is not there.

    A queue whose node is away is there: its messages come back with its node.
    """
    if not isinstance(error, ChannelClosed) or error.reply_code != _NOT_FOUND:
        return False
    return _HOME_NODE_DOWN not in error.reply_text


def loss(error: BaseException, *, topology_given: bool) -> Exception:
    """Return what an error of pika's, or a session given up, means to whoever waits for it."""
    mismatch = isinstance(error, ChannelClosed) and error.reply_code == _PRECONDITION_FAILED
    if mismatch and "inequivalent arg" in str(error):
        return TopologyMismatch(str(error))
    if topology_given and is_missing(error):
        return TopologyMissing(f"no service and no definitions made it: {error}")
    return SessionLost(f"{type(error).__name__}: {reason_of(error)}")


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

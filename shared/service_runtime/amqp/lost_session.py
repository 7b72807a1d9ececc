"""Why a session is lost, told from what the broker or pika says."""

from typing import Final

from pika.exceptions import ChannelClosed

from service_runtime.amqp.endpoint import reason_of

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

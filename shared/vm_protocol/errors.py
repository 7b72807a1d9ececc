"""Why a message is refused: one table of codes, and the exception that the codec raises.

A code is the `reason` of a reject in history, logs and metrics, so the set is closed.
"""

from enum import StrEnum


class RejectReason(StrEnum):
    """Why a service rejects a delivery; all but ROOTS_PINNED end as a dead letter."""

    FREED = "freed"
    """A request, command or completion for a vCPU that is freed: a use-after-free."""
    DOUBLE_FREE = "double-free"
    """A second free of one vCPU."""
    VM_STATE_FREED = "vm-state-freed"
    """A vCPU's step reads VM-level state that the manager has freed."""
    FENCE_NOT_REACHED = "fence-not-reached"
    """The mailbox is not consumed up to the fence; nothing reached the worker for `fence_ms`."""
    ROOTS_PINNED = "roots-pinned"
    """The 2007 loop: roots are left, the command is requeued and tried again."""
    STALE_EPOCH = "stale-epoch"
    """A command or request of a manager that has been superseded."""
    NOT_OWNED = "not-owned"
    """The VM or vCPU is not one of this service's."""
    UNEXPECTED = "unexpected"
    """A well-formed message that this queue's consumer does not take."""
    MALFORMED = "malformed"
    """Body, properties or headers cannot be read, have no known shape, or contradict each other."""
    UNKNOWN_TYPE = "unknown-type"
    """The type is none of this protocol's."""
    WRONG_SCHEMA = "wrong-schema"
    """The schema version is another one."""
    FORGED = "forged"
    """The broker says that another user sent it than those who may (SECURITY.md)."""
    TOO_LARGE = "too-large"
    """The body exceeds MESSAGE_BYTES_MAX."""


class RemoteProtocolError(Exception):
    """A peer sent something that is no message of this protocol.

    Attributes:
        reason: The code under which the delivery is rejected.
        place: Which part is wrong, e.g. "body: vcpu" or "header: x-lamport".
    """

    def __init__(self, reason: RejectReason, place: str) -> None:
        super().__init__(f"{reason}: {place}")
        self.reason = reason
        self.place = place


class LocalProtocolError(Exception):
    """We are wrong: a core or a driver did what the protocol forbids; the service ends."""

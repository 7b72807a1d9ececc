"""Operations: what a step asks of the queues, and what it lets the explorer see; data."""

from typing import Any, Final

(
    SEND,
    POST,
    UNBIND,
    ACK,
    REQUEUE,
    DROP,
    SET,
    CANCEL,
    FIND,
    RAISED,
    VM_FREED,
    WITNESS,
    PAGE,
    STARTED,
    REACHED,
) = range(15)

SEEN_ONLY: Final = frozenset({STARTED, REACHED})
"""Operations that only let the explorer see something."""

Operation = tuple[Any, ...]

"""Which fields the checker needs of each event, and typed readers of a record's details.

A history is judged only when these hold: a missing detail must not pass for an empty one.
"""

from collections.abc import Mapping
from typing import Final

from vm_protocol.observations import Event
from vm_protocol.wire import Record

_TEXT: Final = "text"
_NUMBER: Final = "whole number"
_NUMBERS: Final = "list of whole numbers"

DETAILS: Final[dict[Event, dict[str, str]]] = {
    Event.MESSAGE_SENT: {"type": _TEXT},
    Event.MESSAGE_RECEIVED: {"type": _TEXT, "queue": _TEXT},
    Event.MESSAGE_ACKED: {"queue": _TEXT},
    Event.MESSAGE_REJECTED: {"queue": _TEXT, "reason": _TEXT},
    Event.STEP_STARTED: {"name": _TEXT},
    Event.STEP_FINISHED: {"name": _TEXT},
    Event.VM_STATE_FREED: {"state": _TEXT},
    Event.VM_STATE_READ: {"state": _TEXT},
    Event.ROOT_ALLOCATED: {"root": _TEXT},
    Event.ROOT_PINNED: {"root": _TEXT, "context": _NUMBER, "slot": _NUMBER},
    Event.ROOT_UNPINNED: {"root": _TEXT, "context": _NUMBER, "slot": _NUMBER},
    Event.ROOT_INVALIDATED: {"root": _TEXT},
    Event.ROOT_FREED: {"root": _TEXT},
    Event.PAGE_FREED: {"root": _TEXT},
    Event.REQUEST_POSTED: {"kind": _TEXT, "by": _TEXT, "recipients": _NUMBERS},
    Event.REQUEST_DELIVERED: {"kind": _TEXT},
    Event.ASYNC_PF_COMPLETED: {"fault": _NUMBER},
    Event.DEAD_LETTER_CLASSIFIED: {"reason": _TEXT, "queue": _TEXT},
    Event.RUN_FINISHED: {"outcome": _TEXT},
}

NEED_VCPU: Final = frozenset(
    {
        Event.ROOT_PINNED,
        Event.ROOT_UNPINNED,
        Event.REQUEST_DELIVERED,
        Event.GUEST_ENTERED,
        Event.GUEST_LEFT,
        Event.TLB_FLUSHED,
        Event.VCPU_VISIBLE,
        Event.VCPU_HIDDEN,
        Event.VCPU_ERASED,
        Event.VCPU_CREATED,
        Event.VCPU_FREED,
        Event.ASYNC_PF_COMPLETED,
    }
)
NEED_MESSAGE: Final = frozenset(
    {
        Event.MESSAGE_SENT,
        Event.MESSAGE_RECEIVED,
        Event.MESSAGE_ACKED,
    }
)
"""A reject may lack an id: what is no message of this protocol has none to be trusted."""


def _is(value: object, kind: str) -> bool:
    if kind == _TEXT:
        return isinstance(value, str)
    if kind == _NUMBER:
        return isinstance(value, int)
    return isinstance(value, list | tuple) and all(isinstance(item, int) for item in value)


def problem(record: Record) -> str | None:
    """Return what the record lacks for its event, None when nothing."""
    for name, kind in DETAILS.get(record.event, {}).items():
        if name not in record.details:
            return f"{record.event} lacks the detail {name!r}"
        if not _is(record.details[name], kind):
            return f"{record.event}: the detail {name!r} is no {kind}"
    if record.event in NEED_VCPU and record.vcpu is None:
        return f"{record.event} lacks 'vcpu'"
    if record.event in NEED_MESSAGE and not record.message_id:
        return f"{record.event} lacks 'message_id'"
    return None


def text(record: Record, name: str) -> str:
    """Return a detail that is text, "" when it is not there."""
    value = record.details.get(name)
    return value if isinstance(value, str) else ""


def number(record: Record, name: str) -> int | None:
    """Return a detail that is a whole number, None when it is not there."""
    value = record.details.get(name)
    return value if isinstance(value, int) else None


def numbers(record: Record, name: str) -> tuple[int, ...]:
    """Return a detail that is a list of whole numbers, empty when it is not there."""
    return _numbers(record.details.get(name))


def texts(record: Record, name: str) -> tuple[str, ...] | None:
    """Return a detail that is a list of texts, None when it is not there."""
    value = record.details.get(name)
    if not isinstance(value, list | tuple):
        return None
    return tuple(str(item) for item in value)


def mapping(record: Record, name: str) -> Mapping[str, object]:
    """Return a detail that is an object, empty when it is not there."""
    value = record.details.get(name)
    return value if isinstance(value, dict) else {}


class Body:
    """Typed readers of the body of a sent message."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def number(self, name: str) -> int | None:
        """Return a field that is a whole number, None when it is not there."""
        value = self._fields.get(name)
        return value if isinstance(value, int) else None

    def text(self, name: str) -> str:
        """Return a field that is text, "" when it is not there."""
        value = self._fields.get(name)
        return value if isinstance(value, str) else ""

    def numbers(self, name: str) -> tuple[int, ...]:
        """Return a field that is a list of whole numbers, empty when it is not there."""
        return _numbers(self._fields.get(name))

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a field that is a list of texts, empty when it is not there."""
        value = self._fields.get(name)
        return tuple(str(item) for item in value) if isinstance(value, list | tuple) else ()


def body(record: Record) -> Body:
    """Return the body of a `message.sent` record."""
    return Body(mapping(record, "body"))


def _numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        return ()
    return tuple(item for item in value if isinstance(item, int))

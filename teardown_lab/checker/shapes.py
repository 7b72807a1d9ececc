"""Which fields the checker needs of each event, and typed readers of a record's details.

A record for which these do not hold is left out and said so: a missing detail must not pass for
an empty one.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from vm_protocol import limits
from vm_protocol.message_ids import scope_of
from vm_protocol.messages import DestroyVcpu, VcpuStepsDone
from vm_protocol.observations import Event
from vm_protocol.wire import Record

_TEXT: Final = "text"
_NUMBER: Final = "whole number"
_NUMBERS: Final = "list of whole numbers"
_TEXTS: Final = "list of texts"
_TRUTH: Final = "truth value"
_OBJECT: Final = "object"

DETAILS: Final[dict[Event, dict[str, str]]] = {
    Event.MESSAGE_SENT: {"type": _TEXT, "body": _OBJECT},
    Event.MESSAGE_RECEIVED: {"type": _TEXT, "queue": _TEXT, "redelivered": _TRUTH},
    Event.MESSAGE_ACKED: {"queue": _TEXT},
    Event.MESSAGE_REJECTED: {"queue": _TEXT, "reason": _TEXT, "requeue": _TRUTH},
    Event.STEP_STARTED: {"name": _TEXT},
    Event.STEP_FINISHED: {"name": _TEXT},
    Event.MANAGER_TOOK_OVER: dict.fromkeys(("predecessor", "entry", "seq", "repeated"), _NUMBER),
    Event.VM_CREATED: {"scenario": _OBJECT},
    Event.TEARDOWN_STARTED: {"ordering": _OBJECT},
    Event.VM_STATE_FREED: {"state": _TEXT},
    Event.VM_STATE_READ: {"state": _TEXT},
    Event.ROOT_ALLOCATED: {"root": _TEXT, "mmu": _TEXT},
    Event.ROOT_PINNED: {"root": _TEXT, "context": _NUMBER, "slot": _NUMBER},
    Event.ROOT_UNPINNED: {"root": _TEXT, "context": _NUMBER, "slot": _NUMBER},
    Event.ROOT_INVALIDATED: {"root": _TEXT},
    Event.ROOT_FREED: {"root": _TEXT, "by": _TEXT, "pins": _TEXTS},
    Event.PAGE_FREED: {"root": _TEXT},
    Event.GUEST_ENTERED: {"pages": _TEXTS},
    Event.REQUEST_POSTED: {"kind": _TEXT, "by": _TEXT, "recipients": _NUMBERS},
    Event.REQUEST_DELIVERED: {"kind": _TEXT},
    Event.FLUSH_WAITED: {"generation": _NUMBER, "missing": _NUMBERS},
    Event.ASYNC_PF_COMPLETED: {"fault": _NUMBER},
    Event.DEAD_LETTER_CLASSIFIED: {"reason": _TEXT, "queue": _TEXT},
    Event.RUN_STARTED: {"scenario": _OBJECT},
    Event.RUN_FINISHED: {"outcome": _TEXT},
}

BODIES: Final[dict[str, dict[str, str]]] = {
    "PlaceVcpu": {"vcpu": _NUMBER, "async_pf": _NUMBER},
    "DestroyVcpu": {"vcpu": _NUMBER, "steps": _TEXTS},
    "VcpuStepsDone": {"vcpu": _NUMBER},
    "RootsReleased": {"vcpu": _NUMBER},
    "ZapRequested": {"vcpu": _NUMBER},
    "VmStateRead": {"vcpu": _NUMBER, "state": _TEXT},
    "AsyncPfCompleted": {"vcpu": _NUMBER, "fault": _NUMBER},
    "RequestAcked": {"vcpu": _NUMBER, "generation": _NUMBER},
    "TlbFlush": {"generation": _NUMBER, "recipients": _NUMBERS},
    "DropObsoleteRoots": {"generation": _NUMBER, "recipients": _NUMBERS},
    "ScanIoapic": {"generation": _NUMBER, "recipients": _NUMBERS},
    "ClockUpdate": {"generation": _NUMBER, "recipients": _NUMBERS},
}
"""Fields of a sent message that the checker reads; in a lab's own file bodies are read in full."""

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


def _is_number(value: object) -> bool:
    """Tell whether a value is a whole number that any reader of JSON takes exactly."""
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return -limits.COUNTER_MAX <= value <= limits.COUNTER_MAX


def _is(value: object, kind: str) -> bool:
    match kind:
        case "text":
            return isinstance(value, str)
        case "whole number":
            return _is_number(value)
        case "truth value":
            return isinstance(value, bool)
        case "object":
            return isinstance(value, dict)
    item_is = _is_number if kind == _NUMBERS else _is_text
    return isinstance(value, list | tuple) and all(item_is(item) for item in value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


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
    return _body_problem(record) if record.event == Event.MESSAGE_SENT else None


def _body_problem(record: Record) -> str | None:
    """Return what the body of a sent message lacks for its type, None when nothing."""
    sent = mapping(record, "body")
    for name, kind in BODIES.get(text(record, "type"), {}).items():
        if name not in sent:
            return f"the body of {record.message_id} lacks {name!r}"
        if not _is(sent[name], kind):
            return f"the body of {record.message_id}: {name!r} is no {kind}"
    return None


def text(record: Record, name: str) -> str:
    """Return a detail that is text, "" when it is not there."""
    value = record.details.get(name)
    return value if isinstance(value, str) else ""


def number(record: Record, name: str) -> int | None:
    """Return a detail that is a whole number, None when it is not there."""
    return _number(record.details.get(name))


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
        return _number(self._fields.get(name))

    def text(self, name: str) -> str:
        """Return a field that is text, "" when it is not there."""
        value = self._fields.get(name)
        return value if isinstance(value, str) else ""

    def numbers(self, name: str) -> tuple[int, ...]:
        """Return a field that is a list of whole numbers, empty when it is not there."""
        return _numbers(self._fields.get(name))

    def truth(self, name: str) -> bool:
        """Return a field that is a truth value, False when it is not there."""
        return self._fields.get(name) is True

    def texts_of_texts(self, name: str) -> tuple[tuple[str, ...], ...] | None:
        """Return a field that is a list of lists of texts, None when it is not there."""
        value = self._fields.get(name)
        if not isinstance(value, list | tuple) or not all(_is(each, _TEXTS) for each in value):
            return None
        return tuple(tuple(each) for each in value)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a field that is a list of texts, empty when it is not there."""
        value = self._fields.get(name)
        return tuple(str(item) for item in value) if isinstance(value, list | tuple) else ()


def body(record: Record) -> Body:
    """Return the body of a `message.sent` record."""
    return Body(mapping(record, "body"))


def answered_command(record: Record) -> str:
    """Return the id of the DestroyVcpu that a sent VcpuStepsDone answers.

    Empty where its body does not say what its id says.
    """
    said = body(record)
    message_id = record.message_id or ""
    scope = scope_of(message_id)
    place = {"vcpu": said.number("vcpu"), "step": said.text("step")}
    answer = VcpuStepsDone.id_of(scope, **place, outcome=said.text("outcome"))
    return DestroyVcpu.id_of(scope, **place) if message_id == answer else ""


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and _is_number(value) else None


def _numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        return ()
    return tuple(item for item in value if _is_number(item))


def some(text: str, what: Iterable[str], noun: str = "message") -> str:
    """Return a note about several things, naming the first; `text` has a place for the subject."""
    items = list(what)
    plural = len(items) > 1
    subject = f"{len(items)} {noun}{'s' * plural} {'were' if plural else 'was'}"
    clause = text.format(subject)
    if not plural:
        clause = clause.replace("before they can", "before it can").replace("their", "its")
    return f"{clause} (first: {items[0]})" if plural else f"{clause}: {items[0]}"

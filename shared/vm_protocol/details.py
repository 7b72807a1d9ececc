"""The details of each event, with their types and bounds; every record from the journal is checked.

Any peer can write anything into the journal. Code that gets its records through this check may rely
on every detail being what the table says.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import to_json

from vm_protocol import limits
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.message_base import Ordinal
from vm_protocol.messages import REQUEST_KINDS, Generation, Index, Message
from vm_protocol.observations import EVENTS, Event
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Mmu, Scenario
from vm_protocol.wire import Record

_Text = Annotated[str, Field(max_length=limits.TEXT_CHARACTERS_MAX)]
_Path = Annotated[str, Field(max_length=limits.PATH_CHARACTERS_MAX)]
_Name = Annotated[str, Field(max_length=limits.NAME_CHARACTERS_MAX)]
_Names = Annotated[tuple[_Name, ...], Field(max_length=limits.VCPUS_MAX)]
_Indices = Annotated[tuple[Index, ...], Field(max_length=limits.VCPUS_MAX)]
_Pins = Annotated[tuple[_Text, ...], Field(max_length=limits.PINS_MAX)]
_Chain = Annotated[tuple[_Text, ...], Field(max_length=limits.CHAIN_LINKS_MAX)]
_Line = Annotated[int, Field(ge=1, le=limits.ORDERING_FILE_CHARACTERS_MAX)]
_Lines = Annotated[tuple[_Line, ...], Field(max_length=limits.STEPS_MAX)]
_Nanoseconds = Annotated[int, Field(ge=0, le=limits.NANOSECONDS_MAX)]
_Count = Annotated[int, Field(ge=0, le=limits.COUNTER_MAX)]
_Small = Annotated[int, Field(ge=0, le=limits.ROOTS_OF_CONTEXT_MAX)]
_Kind: Any = Literal[tuple(REQUEST_KINDS.values())]
_Reason: Any = Literal[tuple(str(reason) for reason in RejectReason)]


class _Optional:
    """A detail that some records of its event lack."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


_ROOT: Final = {"root": _Name}
_PIN: Final = {"root": _Name, "context": _Small, "slot": _Small}
_STEP: Final = {"name": _Name}
_PAGES: Final = {"pages": _Pins}

_FIELDS: Final[Mapping[Event, Mapping[str, Any]]] = {
    Event.MESSAGE_SENT: {
        "type": _Name,
        "exchange": _Text,
        "routing_key": _Text,
        "body": Annotated[Message, Field(discriminator="type")],
        "reply_to": _Optional(_Text),
    },
    Event.MESSAGE_RECEIVED: {
        "type": _Name,
        "queue": _Text,
        "redelivered": bool,
        "generation": _Optional(Ordinal),
    },
    Event.MESSAGE_ACKED: {"type": _Optional(_Name), "queue": _Text},
    Event.MESSAGE_REJECTED: {
        "type": _Optional(_Name),
        "queue": _Text,
        "reason": _Reason,
        "requeue": bool,
        "place": _Optional(_Text),
    },
    Event.MESSAGE_RETURNED: {
        "type": _Name,
        "exchange": _Optional(_Text),
        "routing_key": _Optional(_Text),
    },
    Event.MESSAGE_SKIPPED: {"queue": _Text, "place": _Text},
    Event.MANAGER_TOOK_OVER: {
        "predecessor": Annotated[int, Field(ge=1, le=limits.COUNTER_MAX)],
        "entry": _Count,
        "seq": _Count,
        "repeated": _Count,
    },
    Event.VM_CREATED: {"scenario": Scenario, "workers": _Names},
    Event.TEARDOWN_STARTED: {"ordering": Ordering},
    Event.TEARDOWN_STUCK: {"why": _Text},
    Event.STEP_STARTED: _STEP,
    Event.STEP_FINISHED: _STEP,
    Event.VM_STATE_FREED: {"state": _Name},
    Event.VM_STATE_READ: {"state": _Name, "freed": bool},
    Event.ROOT_ALLOCATED: {"root": _Name, "mmu": Mmu},
    Event.ROOT_PINNED: _PIN,
    Event.ROOT_UNPINNED: _PIN,
    Event.ROOT_INVALIDATED: _ROOT,
    Event.ROOT_FREED: {"root": _Name, "by": _Text, "pins": _Pins},
    Event.PAGE_FREED: _ROOT,
    Event.FLUSH_WAITED: {"generation": Generation, "missing": _Indices},
    Event.GUEST_ENTERED: _PAGES,
    Event.TLB_FLUSHED: _PAGES,
    Event.REQUEST_POSTED: {
        "kind": _Kind,
        "by": _Text,
        "generation": Generation,
        "recipients": _Indices,
    },
    Event.REQUEST_DELIVERED: {
        "kind": _Kind,
        "generation": Ordinal,
        "outcome": Literal["posted", "rejected"],
    },
    Event.REQUEST_DUPLICATED: {"kind": _Kind, "generation": Ordinal},
    Event.VCPU_VISIBLE: {"mailbox": _Text},
    Event.VCPU_HIDDEN: {"hole": Index},
    Event.VCPU_FREED: {"generation": Generation},
    Event.VCPU_FORGOTTEN: {"freed": bool},
    Event.ASYNC_PF_COMPLETED: {"fault": Index, "how": Literal["cleared", "late"]},
    Event.FENCE_WAITED: {"generation": Generation, "consumed": Generation},
    Event.HOST_LOST: {
        "worker": _Name,
        "reason": Literal["silent", "drained"],
        "vcpus": _Indices,
    },
    Event.HOST_LAPSED: {"vcpus": _Indices},
    Event.REQUEST_COMPLETED: {"kind": _Kind, "round_trip_ns": _Nanoseconds},
    Event.DEAD_LETTER_ARRIVED: {"letter": _Text},
    Event.DEAD_LETTER_CLASSIFIED: {
        "reason": _Text,
        "queue": _Text,
        "invariant": _Text | None,
        "why": _Text,
        "used_by": _Chain,
        "freed_by": _Chain,
        "allocated_by": _Chain,
    },
    Event.DEAD_LETTER_REPUBLISHED: {"queue": _Text},
    Event.RUN_STARTED: {
        "broker": _Path,
        "source": _Path,
        "ordering": _Name,
        "scenario": Scenario,
        "whole": bool,
        "lines": _Optional(_Lines),
    },
    Event.RUN_FINISHED: {
        "outcome": _Name,
        "timeout_ms": _Optional(_Nanoseconds),
        "missing": _Optional(_Chain),
    },
}
"""Event -> its details; an event that is not here has none."""


def _adapter(event: Event) -> TypeAdapter[Any]:
    fields = {
        name: (kind.kind, None) if isinstance(kind, _Optional) else (kind, ...)
        for name, kind in _FIELDS.get(event, {}).items()
    }
    config = ConfigDict(extra="forbid", strict=True)
    model: Any = create_model(str(event), __config__=config, **fields)  # type: ignore[call-overload]
    return TypeAdapter(model)


_ADAPTERS: Final = {event: _adapter(event) for event in EVENTS}


def names(event: Event) -> set[str]:
    """Return the names of an event's details."""
    return set(_FIELDS.get(event, {}))


def check(record: Record) -> None:
    """Pass a record whose details are those of its event, by name, type and bound.

    Raises:
        RemoteProtocolError: MALFORMED: with the event and the detail.
    """
    try:
        details = _ADAPTERS[record.event].validate_json(to_json(record.details))
    except (ValidationError, ValueError) as error:
        raise RemoteProtocolError(RejectReason.MALFORMED, _place(record, error)) from None
    if record.event == Event.MESSAGE_SENT and not _is_of(record, details.body):
        place = f"{record.event}: the body is another message's"
        raise RemoteProtocolError(RejectReason.MALFORMED, place)


def _place(record: Record, error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return f"{record.event}: details"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{record.event}: details: {'.'.join(str(part) for part in first['loc'])}"[:200]


def _is_of(record: Record, body: Message) -> bool:
    """Tell whether a sent message is the one that its record names."""
    named = (record.message_id, record.vm, record.details["type"])
    return named == (body.identity(), body.vm, body.type)

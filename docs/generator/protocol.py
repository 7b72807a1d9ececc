"""docs/protocol.md, from vm_protocol: messages, topology, reject reasons, events; and waits."""

import inspect
from collections.abc import Iterable
from typing import Any, get_args

from generator import runs
from generator.markdown import code, heading, said_of_members, sentence, table
from vcpu_worker.waits import WAITS, End, Then, Wait
from vm_protocol import codec, messages, topology
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message
from vm_protocol.observations import EVENTS, Event
from vm_protocol.topology import Mailbox, Queue
from vm_protocol.wire import Record

COMMON_FIELDS = ("type", "vm", "incarnation")
PAGES = {"Ordering": "[ordering](orderings.md)", "Scenario": "[scenario](orderings.md#scenarios)"}

INTRODUCTION = """
What travels between the services. A body is one JSON object; its `type` says which message it is,
and unknown fields are refused. Every message also has `vm` (letters, digits and dashes, up to 40)
and `incarnation` (from 1); `<vm>.<incarnation>` is its *scope*, the beginning of its id.

Ids are formed from what a message says, so the same message sent twice has the same id, and its
receiver knows it again. *Route* is what the catalogue's runs were seen to do.
"""
WAITS_INTRODUCTION = """
A worker runs the steps of a DestroyVcpu in a row, until one has to wait. Nothing else ends a wait
than what stands here: any other copy of the command is settled together with the first, any other
answer is acknowledged.
"""
HEADERS = {
    "caused_by": "id of the message whose handling sent this one",
    "traceparent": "[W3C's](https://www.w3.org/TR/trace-context/): trace by scope, span by id",
    "sender": "name of the actor",
    "lamport": "the sender's Lamport time",
    "epoch": "the manager's epoch; 0 from anybody else",
    "entry": "the entry of that epoch's [log](recovery.md) that the message comes from",
    "ended": "last entries of earlier epochs: `epoch:entry`, separated by commas",
}


def page() -> str:
    """Return the page's text."""
    lines = heading(
        "Protocol",
        "`vm_protocol`: messages, topology, errors, observations, and from `vcpu_worker/waits.py`",
    )
    lines += [*INTRODUCTION.strip().splitlines(), ""]
    lines += _envelope()
    lines += _topology()
    lines += ["## Messages", ""]
    for kind in _kinds():
        lines += _message(kind)
    lines += _waits()
    lines += _reject_reasons()
    lines += _events()
    return "\n".join(lines)


def _kinds() -> tuple[type[Message], ...]:
    """Return every message type, those of nested unions included."""
    members = get_args(messages.Message)
    return tuple(kind for member in members for kind in (get_args(member) or (member,)))


# --- envelope and topology -----------------------------------------------------------------


def _envelope() -> list[str]:
    headers = [[f"`{codec.SCHEMA_HEADER}`", "version of the wire format"]]
    headers += [[f"`{header}`", HEADERS[field]] for field, header in codec.HEADERS.items()]
    properties = code((*codec.PROPERTIES, "type"))
    lines = ["## Envelope", "", f"The AMQP properties {properties}, and these headers.", ""]
    return lines + table(["Header", "Holds"], headers)


def _topology() -> list[str]:
    lines = ["## Exchanges", ""]
    lines += table(
        ["Exchange", "Type"], ([f"`{each.name}`", each.type] for each in topology.EXCHANGES)
    )
    lines += [
        "## Queues",
        "",
        "All are durable; a mailbox is bound and unbound by the manager.",
        "",
    ]
    lines += table(["Queue", "Kind", "Bound to", "Arguments"], map(_queue, _queues()))
    return lines


def _queues() -> Iterable[Queue]:
    yield from topology.SHARED_QUEUES
    yield topology.MANAGER_REPLIES_QUEUE
    yield topology.worker_commands("<id>")
    yield topology.worker_replies("<id>")
    yield topology.client_replies("<id>")
    yield Mailbox("vm-0", 0).queue()


def _queue(queue: Queue) -> list[str]:
    arguments = dict(queue.arguments)
    arguments.pop("x-queue-type", None)
    bound = (f"`{exchange}`" for exchange, _ in queue.bindings)
    shown = (f"`{name}: {_value(value)}`" for name, value in arguments.items())
    name = f"`{runs.pattern_of(queue.name)}`"
    return [name, queue.kind, ", ".join(bound) or "`vm.requests`", ", ".join(shown)]


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- messages ------------------------------------------------------------------------------


def _message(kind: type[Message]) -> list[str]:
    first, *more = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    lines = [f"### {kind.__name__}", "", sentence(first), ""]
    for paragraph in more:
        lines += [sentence(paragraph), ""]
    lines += [f"- Id: `{_id_form(kind)}`", f"- Route: {_route(kind.__name__)}", ""]
    schema = kind.model_json_schema()
    fields = schema["properties"].items()
    rows = [
        [f"`{name}`", _shape(field), "" if name in schema["required"] else _default(field)]
        for name, field in fields
        if name not in COMMON_FIELDS
    ]
    return lines + (table(["Field", "Is", "Default"], rows) if rows else [])


def _id_form(kind: type[Message]) -> str:
    return kind.id_form.replace("{", "<").replace("}", ">")


def _default(field: dict[str, Any]) -> str:
    return f"`{field['default']}`" if "default" in field else ""


def _route(name: str) -> str:
    """Return who sends a message, through which exchange, to whom, as seen in runs."""
    sent = [
        record
        for record in runs.records()
        if record.event == Event.MESSAGE_SENT and record.details["type"] == name
    ]
    takers = {
        runs.kind_of(record.actor)
        for record in runs.records()
        if record.event == Event.MESSAGE_RECEIVED and record.details["type"] == name
    }
    routes = sorted({_leg(record) for record in sent})
    assert routes, f"{name}: no run of the catalogue sends it"
    return f"{'; '.join(routes)} → {' and '.join(sorted(takers)) or 'nobody'}"


def _leg(record: Record) -> str:
    key = runs.pattern_of(str(record.details["routing_key"]))
    return f"{runs.kind_of(record.actor)} → `{record.details['exchange']}` with key `{key}`"


def _shape(field: dict[str, Any]) -> str:
    """Return in words what a field of a JSON schema takes."""
    if "$ref" in field:
        return PAGES[field["$ref"].rpartition("/")[2]]
    if "enum" in field:
        return code(field["enum"])
    match field["type"]:
        case "boolean":
            return "true or false"
        case "integer":
            most = field.get("maximum", field.get("exclusiveMaximum", 0) - 1)
            return f"integer {field['minimum']}..{most}"
        case "array" if "prefixItems" in field:
            return f"for each MMU context, a {_shape(field['prefixItems'][0])}"
        case "array":
            items = _shape(field["items"])
            least, most = field.get("minItems", 0), field["maxItems"]
            return f"list of {least}..{most}: {items}"
        case _:
            pattern = f" like `{field['pattern']}`" if "pattern" in field else ""
            return f"text{pattern}, up to {field['maxLength']} characters"


# --- waits -------------------------------------------------------------------------------------


def _waits() -> list[str]:
    waits, ends, thens = (said_of_members(members) for members in (Wait, End, Then))
    lines = ["## What a command waits for", "", *WAITS_INTRODUCTION.strip().splitlines(), ""]
    lines += table(["Wait", "For"], ([f"`{wait}`", sentence(waits[wait.name])] for wait in WAITS))
    rows = (
        [f"`{wait}`", sentence(ends[end.name]), f"`{then}`: {sentence(thens[then.name])}"]
        for wait, row in WAITS.items()
        for end, then in row.items()
    )
    return lines + table(["Wait", "Is ended by", "Then"], rows)


# --- reasons and events --------------------------------------------------------------------


def _reject_reasons() -> list[str]:
    said = said_of_members(RejectReason)
    lines = ["## Reject reasons", ""]
    lines += ["Why a service rejects a delivery; the set is closed, so reasons can be labels.", ""]
    rows = ([f"`{reason}`", sentence(said[reason.name])] for reason in RejectReason)
    return lines + table(["Reason", "Meaning"], rows)


def _events() -> list[str]:
    lines = ["## Events", ""]
    lines += ["The one vocabulary that history, logs and metrics share.", ""]
    rows = (
        [f"`{event}`", sentence(meaning.text), code(meaning.details)]
        for event, meaning in EVENTS.items()
    )
    return lines + table(["Event", "Meaning", "Details"], rows)

"""Hypothesis strategies: every message of the protocol, its envelope, and broken packets."""

from typing import Any, get_args

from hypothesis import strategies as st

from support.orderings import orderings, scenarios
from vm_protocol import codec, limits, messages
from vm_protocol.codec import Packet
from vm_protocol.messages import Message
from vm_protocol.ordering import WORKER_STEPS
from vm_protocol.wire import Envelope

MESSAGE_TYPES: tuple[type[Message], ...] = tuple(
    kind for member in get_args(messages.Message) for kind in (get_args(member) or (member,))
)
"""Every member of the union; a new one without a strategy fails below, at once."""

_text = st.text(max_size=limits.NAME_CHARACTERS_MAX)
_vm = st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True)
_index = st.integers(0, limits.VCPUS_MAX - 1)
_ordinal = st.integers(1, limits.COUNT_MAX)
_count = st.integers(0, limits.COUNT_MAX)
_step = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True)
_roots = st.lists(_text, max_size=limits.ROOTS_OF_CONTEXT_MAX).map(tuple)
_contexts = st.tuples(_roots, _roots)
_worker_steps = st.lists(st.sampled_from(WORKER_STEPS), min_size=1, max_size=8).map(tuple)

_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "vm": _vm,
    "incarnation": _ordinal,
    "vcpu": _index,
    "why": st.sampled_from(["rejects", "connections-lost"]),
    "step": _step,
    "position": _index,
    "generation": _ordinal,
    "recipients": st.lists(_index, min_size=1, max_size=8).map(tuple),
    "flush_wait": st.sampled_from(["in_guest", "all"]),
    "wait_for": st.lists(_index, max_size=8).map(tuple),
    "contexts": _contexts,
    "attempt": _ordinal,
    "number": _ordinal,
    "fault": st.integers(0, 15),
    "root": _text,
    "scenario": scenarios(racy=True),
    "ordering": orderings(racy=True),
    "workers": st.lists(_text, max_size=8).map(tuple),
    "worker": _text,
    "places": st.integers(0, limits.VCPUS_MAX),
    "command": st.text(max_size=200),
    "code": st.sampled_from(get_args(messages.RefusalCode)),
    "async_pf": st.integers(0, 16),
    "nested": st.booleans(),
    "avic": st.booleans(),
    "in_guest": st.booleans(),
    "fence": st.booleans(),
    "accepted": st.booleans(),
    "fence_ms": st.integers(1, 600_000),
    "steps": _worker_steps,
    "roots_left": _count,
    "state": st.sampled_from(["irqchip", "vendor"]),
}
_OUTCOMES = {"VmDestroyed": ["freed", "stuck"], "VcpuStepsDone": ["done", "refused", "stuck"]}


def messages_of(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Return a strategy for one message type, from its fields' names."""
    fields = {}
    for name in kind.model_fields:
        if name == "outcome":
            fields[name] = st.sampled_from(_OUTCOMES[kind.__name__])
        elif name != "type":
            fields[name] = _FIELDS[name]
    return st.fixed_dictionaries(fields).map(kind.model_validate)


any_message: st.SearchStrategy[Message] = st.sampled_from(MESSAGE_TYPES).flatmap(messages_of)

_hex = "0123456789abcdef"


@st.composite
def envelopes(draw: st.DrawFn, message: Message) -> Envelope:
    """Return an envelope that belongs to a message."""
    optional = st.none() | _text
    trace = draw(st.text(_hex, min_size=32, max_size=32))
    span = draw(st.text(_hex, min_size=16, max_size=16))
    return Envelope(
        message_id=message.identity(),
        correlation_id=draw(optional),
        reply_to=draw(optional),
        caused_by=draw(optional),
        traceparent=f"00-{trace}-{span}-01",
        sender=draw(st.text(min_size=1, max_size=100)),
        lamport=draw(st.integers(0, limits.COUNTER_MAX - 1_000)),
        epoch=draw(_count),
        user_id=draw(optional),
    )


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """Return the packet of some message."""
    message = draw(any_message)
    return codec.encode(message, draw(envelopes(message)))


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_headers = st.sampled_from([codec.SCHEMA_HEADER, *codec.HEADERS.values(), "x-death", "other"])
_properties = st.sampled_from([*codec.PROPERTIES, "type", "content_type"])


@st.composite
def broken_packets(draw: st.DrawFn) -> Packet:
    """Return a packet with bytes, headers or properties that nobody promised."""
    packet = draw(packets())
    body = packet.body
    match draw(st.sampled_from(["keep", "noise", "cut", "splice"])):
        case "noise":
            body = draw(st.binary(max_size=300))
        case "cut":
            body = body[: draw(st.integers(0, len(body)))]
        case "splice":
            place = draw(st.integers(0, len(body)))
            body = body[:place] + draw(st.binary(min_size=1, max_size=8)) + body[place:]
    headers = {**packet.headers, **draw(st.dictionaries(_headers, _values, max_size=3))}
    properties = {**packet.properties, **draw(st.dictionaries(_properties, _values, max_size=3))}
    for name in draw(st.lists(_headers, max_size=2)):
        headers.pop(name, None)
    for name in draw(st.lists(_properties, max_size=2)):
        properties.pop(name, None)
    return Packet(body, properties, headers)

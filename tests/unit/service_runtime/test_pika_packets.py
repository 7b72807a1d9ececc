"""Properties as pika decodes them: no bytes make it raise, and what can be read is kept."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from integration.tools.raw_amqp import short_string, table
from pika import frame, spec

from service_runtime.amqp.pika_packets import ReadableProperties, packet_of

BODY_SIZE = 3
FIELD_TYPES = b"tbBUusIiLlfdDTSxAFV"


def decoded(properties: bytes) -> ReadableProperties:
    """Decode a header frame, as pika does with what it reads from the socket."""
    content = struct.pack(">HHQ", 60, 0, BODY_SIZE) + properties
    head = struct.pack(">BHI", spec.FRAME_HEADER, 1, len(content))
    used, value = frame.decode_frame(head + content + bytes([spec.FRAME_END]))
    assert used == len(head) + len(content) + 1
    assert isinstance(value, frame.Header)
    assert value.body_size == BODY_SIZE
    assert isinstance(value.properties, ReadableProperties)
    return value.properties


def with_headers(headers: bytes, message_id: bytes = b"an-id") -> bytes:
    flags = spec.BasicProperties.FLAG_HEADERS | spec.BasicProperties.FLAG_MESSAGE_ID
    return struct.pack(">H", flags) + headers + short_string(message_id)


def text(value: bytes) -> bytes:
    return b"S" + struct.pack(">I", len(value)) + value


def nested(kind: bytes, depth: int) -> bytes:
    """Return arrays, or tables, inside each other."""
    inner = b"V"
    for _ in range(depth):
        content = inner if kind == b"A" else short_string(b"k") + inner
        inner = kind + struct.pack(">I", len(content)) + content
    return inner


UNREADABLE = {
    "a time beyond the year 9999": b"T" + struct.pack(">Q", 253_402_300_800),
    "the last time of all": b"T" + b"\xff" * 8,
    "a float that is no number": b"f" + struct.pack(">f", float("nan")),
    "an infinite float": b"f" + struct.pack(">f", float("inf")),
    "a double that is no number": b"d" + struct.pack(">d", float("nan")),
    "an infinite double": b"d" + struct.pack(">d", float("-inf")),
    "arrays inside each other": nested(b"A", 5_000),
    "tables inside each other": nested(b"F", 5_000),
    "a time inside of an array": b"A" + struct.pack(">I", 9) + b"T" + b"\xff" * 8,
    "an array that ends within a value": b"A" + struct.pack(">I", 1) + b"l",
    "a table that ends within a name": b"F" + struct.pack(">I", 1) + b"\x09",
}


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=list(UNREADABLE))
def test_a_header_that_cannot_be_read_is_named_and_the_others_are_kept(value: bytes) -> None:
    headers = table((b"first", text(b"a")), (b"odd", value), (b"last", text(b"b")))

    packet = packet_of(decoded(with_headers(headers)), b"abc")

    assert packet.unreadable == "odd"
    assert packet.headers == {"first": "a", "last": "b"}
    assert packet.properties["message_id"] == "an-id"


def test_a_field_of_no_known_type_hides_what_comes_behind_it() -> None:
    headers = table((b"first", text(b"a")), (b"odd", b"Z123"), (b"last", text(b"b")))

    packet = packet_of(decoded(with_headers(headers)), b"abc")

    assert packet.unreadable == "properties"
    assert packet.headers == {}
    assert packet.properties["message_id"] == "an-id"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (text(b"\xff\xfe"), b"\xff\xfe"),
        (b"D" + struct.pack(">Bi", 255, -(2**31)), None),
        (b"D" + struct.pack(">Bi", 2, 250), None),
        (b"V", None),
        (b"x" + struct.pack(">I", 2) + b"\0\xff", b"\0\xff"),
    ],
)
def test_odd_headers_that_can_be_read_are_read(value: bytes, read: Any) -> None:
    packet = packet_of(decoded(with_headers(table((b"odd", value)))), b"abc")

    assert packet.unreadable is None
    assert read is None or packet.headers["odd"] == read


def test_names_and_ids_that_are_no_text_are_read_as_bytes() -> None:
    packet = packet_of(decoded(with_headers(table((b"\xff", b"V")), b"\xfe")), b"abc")

    assert packet.unreadable is None
    assert packet.properties["message_id"] == b"\xfe"


@given(properties=st.binary(max_size=200))
def test_no_bytes_at_all_make_the_decoder_raise(properties: bytes) -> None:
    decoded(properties)


field = st.tuples(st.sampled_from([bytes([each]) for each in FIELD_TYPES]), st.binary(max_size=40))


@given(fields=st.lists(st.tuples(st.binary(max_size=20), field), max_size=5))
def test_no_field_of_any_type_makes_the_decoder_raise(
    fields: list[tuple[bytes, tuple[bytes, bytes]]],
) -> None:
    headers = table(*((name, kind + value) for name, (kind, value) in fields))

    decoded(with_headers(headers))

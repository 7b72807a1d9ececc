"""Packets as pika's properties, and back; what pika cannot read is named, and not raised.

A peer may put into a header what RabbitMQ takes and pika's decoder raises over: a time beyond the
year 9999, a float that is no number, tables inside each other by the hundred. Raised while a frame
is decoded, it ends the connection, the broker delivers the message again, and so on for ever. So
pika is given properties of ours, in the table where it looks classes of properties up
(docs/decisions/0025-headers-nobody-can-read.md).
"""

import struct
from typing import Any, Final

import pika
from pika import data, spec

from vm_protocol.codec import Packet

_NAMES = ("message_id", "correlation_id", "reply_to", "type", "user_id")
_PROPERTIES: Final = "properties"
"""What is named when not even the properties' places can be told."""

_SIZES: Final = {
    **dict.fromkeys((b"t", b"b", b"B"), 1),
    **dict.fromkeys((b"U", b"u", b"s"), 2),
    **dict.fromkeys((b"I", b"i", b"f"), 4),
    **dict.fromkeys((b"L", b"l", b"d", b"T"), 8),
    b"D": 5,
    b"V": 0,
}
"""Field type -> bytes of its value (RabbitMQ: AMQP 0-9-1 errata, field types)."""

_COUNTED: Final = (b"S", b"x", b"A", b"F")
"""Field types whose value begins with its length."""


class ReadableProperties(spec.BasicProperties):
    """Properties of a message, and the first header of it that cannot be read.

    The others are kept: by those that the broker adds, a dead letter tells where it comes from.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unreadable: str | None = None

    def decode(self, encoded: bytes, offset: int = 0) -> "ReadableProperties":
        """Decode what can be decoded; raises nothing, whatever the bytes are."""
        try:
            super().decode(encoded, offset)
        except Exception:
            self.unreadable = _PROPERTIES
            self._salvage(encoded[offset:])
        return self

    def _salvage(self, encoded: bytes) -> None:
        """Decode everything else, and of the headers each for itself."""
        try:
            begin, end = _headers_span(encoded)
            super().decode(encoded[:begin] + bytes(4) + encoded[end:])
            self.headers, self.unreadable = _readable_headers(encoded[begin + 4 : end])
        except Exception:
            self.headers = {}


def _headers_span(encoded: bytes) -> tuple[int, int]:
    """Return where the table of headers begins, with its length, and where it ends."""
    flags = struct.unpack_from(">H", encoded)[0]
    begin = 2
    for flag in (
        spec.BasicProperties.FLAG_CONTENT_TYPE,
        spec.BasicProperties.FLAG_CONTENT_ENCODING,
    ):
        if flags & flag:
            begin += 1 + encoded[begin]
    length = struct.unpack_from(">I", encoded, begin)[0]
    return begin, begin + 4 + length


def _readable_headers(table: bytes) -> tuple[dict[str, Any], str]:
    """Return the headers that can be read, and the name of the first that cannot."""
    headers: dict[str, Any] = {}
    unreadable = ""
    offset = 0
    while offset < len(table):
        name, offset = data.decode_short_string(table, offset)
        end = _end_of_value(table, offset)
        try:
            headers[str(name)], _ = data.decode_value(table[offset:end], 0)
        except Exception:
            unreadable = unreadable or str(name)
        offset = end
    return headers, unreadable or _PROPERTIES


def _end_of_value(table: bytes, offset: int) -> int:
    """Return where a value ends.

    Raises:
        KeyError: Its type is none of AMQP's.
    """
    kind = table[offset : offset + 1]
    if kind in _COUNTED:
        return int(offset + 5 + struct.unpack_from(">I", table, offset + 1)[0])
    return offset + 1 + _SIZES[kind]


spec.props[spec.BasicProperties.INDEX] = ReadableProperties


def packet_of(properties: pika.BasicProperties, body: bytes) -> Packet:
    """Return the packet that pika's properties and body are."""
    named = {name: getattr(properties, name) for name in _NAMES}
    unreadable = getattr(properties, "unreadable", None)
    return Packet(body, named, properties.headers or {}, unreadable)


def properties_of(packet: Packet, user: str) -> pika.BasicProperties:
    """Return pika's properties of a packet; the broker checks that `user` is who publishes it.

    A message published again after a lost connection has the same user: whose connection it is.
    """
    named = {**packet.properties, "user_id": user}
    return pika.BasicProperties(headers=dict(packet.headers), delivery_mode=2, **named)

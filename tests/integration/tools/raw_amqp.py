"""A publisher that writes its own frames: headers that no client library would encode.

pika's encoder refuses most of what its decoder stumbles over; a broker takes it all the same.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from pika import frame, spec

from vm_protocol.codec import Packet

PATIENCE_S: Final = 30
_FRAME_BYTES: Final = 131_072
_CONTENT: Final = 60
"""The class of messages (AMQP 0-9-1: basic)."""


class Closed(Exception):
    """The broker has closed the channel or the connection: it takes no such message."""


def short_string(value: bytes) -> bytes:
    """Return a short string: at most 255 bytes, of any kind."""
    return struct.pack("B", len(value)) + value


def table(*fields: tuple[bytes, bytes]) -> bytes:
    """Return a field table; each field is its name and its value as bytes, type first."""
    body = b"".join(short_string(name) + value for name, value in fields)
    return struct.pack(">I", len(body)) + body


def encoded(headers: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """Return ordinary headers as fields for `table`."""
    fields = []
    for name, value in headers.items():
        text = value if isinstance(value, str) else None
        data = b"S" + struct.pack(">I", len(text.encode())) + text.encode() if text else b""
        fields.append((name.encode(), data or b"l" + struct.pack(">q", int(value))))
    return fields


class RawPublisher:
    """One connection and one channel with confirms."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._user = unquote(parts.username or "guest")
        password = unquote(parts.password or "guest")
        address = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._socket = socket.create_connection(address, timeout=PATIENCE_S)
        self._read = b""
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._await(spec.Connection.Start)
        login = f"\0{self._user}\0{password}"
        self._method(0, spec.Connection.StartOk(None, "PLAIN", login, "en_US"))
        self._await(spec.Connection.Tune)
        self._method(0, spec.Connection.TuneOk(8, _FRAME_BYTES, 0))
        vhost = unquote(parts.path[1:]) or "/"
        self._method(0, spec.Connection.Open(vhost))
        self._await(spec.Connection.OpenOk)
        self._method(1, spec.Channel.Open())
        self._await(spec.Channel.OpenOk)
        self._method(1, spec.Confirm.Select())
        self._await(spec.Confirm.SelectOk)

    def close(self) -> None:
        """Let the socket go."""
        self._socket.close()

    def publish(
        self, exchange: str, key: str, packet: Packet, *fields: tuple[bytes, bytes]
    ) -> None:
        """Publish a packet with some more header fields, and wait for the broker's confirm.

        Raises:
            Closed: The broker does not take it.
        """
        self.publish_raw(exchange, key, properties_bytes(packet, *fields), packet.body)

    def publish_raw(self, exchange: str, key: str, properties: bytes, body: bytes) -> None:
        """Publish with these bytes as properties, flags first, and wait for the confirm."""
        self._method(1, spec.Basic.Publish(0, exchange, key, mandatory=True))
        content = struct.pack(">HHQ", _CONTENT, 0, len(body)) + properties
        self._frame(spec.FRAME_HEADER, content)
        for begin in range(0, len(body), _FRAME_BYTES - 8):
            self._frame(spec.FRAME_BODY, body[begin : begin + _FRAME_BYTES - 8])
        self._await(spec.Basic.Ack)

    def _method(self, channel: int, method: Any) -> None:
        self._socket.sendall(frame.Method(channel, method).marshal())

    def _frame(self, kind: int, payload: bytes) -> None:
        head = struct.pack(">BHI", kind, 1, len(payload))
        self._socket.sendall(head + payload + bytes([spec.FRAME_END]))

    def _await(self, wanted: type) -> None:
        while True:
            method = self._next_method()
            if isinstance(method, wanted):
                return
            if isinstance(method, spec.Connection.Close | spec.Channel.Close | spec.Basic.Return):
                raise Closed(str(method))

    def _next_method(self) -> Any:
        while True:
            used, value = frame.decode_frame(self._read)
            if value is None:
                data = self._socket.recv(65_536)
                if not data:
                    raise Closed("the broker has closed the connection")
                self._read += data
                continue
            self._read = self._read[used:]
            if isinstance(value, frame.Method):
                return value.method


def properties_bytes(packet: Packet, *fields: tuple[bytes, bytes]) -> bytes:
    """Return a packet's properties as the wire has them, with some more header fields."""
    properties = spec.BasicProperties(delivery_mode=2, **packet.properties)
    properties.headers = {}
    headers = table(*encoded(dict(packet.headers)), *fields)
    return _with_headers(b"".join(properties.encode()), headers)


def _with_headers(properties: bytes, headers: bytes) -> bytes:
    """Put a field table where an empty one stands: behind the flags and the content type."""
    at = 2
    if struct.unpack_from(">H", properties)[0] & spec.BasicProperties.FLAG_CONTENT_TYPE:
        at += 1 + properties[at]
    assert properties[at : at + 4] == bytes(4), "an empty table"
    return properties[:at] + headers + properties[at + 4 :]


@contextmanager
def raw_publisher(url: str) -> Iterator[RawPublisher]:
    """Connect, and let go at the end."""
    publisher = RawPublisher(url)
    try:
        yield publisher
    finally:
        publisher.close()

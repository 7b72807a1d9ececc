"""Packets as pika's properties, and back."""

import pika

from vm_protocol.codec import Packet

_NAMES = ("message_id", "correlation_id", "reply_to", "type", "user_id")


def packet_of(properties: pika.BasicProperties, body: bytes) -> Packet:
    """Return the packet that pika's properties and body are."""
    named = {name: getattr(properties, name) for name in _NAMES}
    return Packet(body, named, properties.headers or {})


def properties_of(packet: Packet, user: str) -> pika.BasicProperties:
    """Return pika's properties of a packet; the broker checks that `user` is who publishes it.

    A message published again after a lost connection has the same user: whose connection it is.
    """
    named = {**packet.properties, "user_id": user}
    return pika.BasicProperties(headers=dict(packet.headers), delivery_mode=2, **named)

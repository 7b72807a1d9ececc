"""What a session on a broker tells the driver that opened it."""

from typing import Protocol

from vm_protocol.codec import Packet


class Events(Protocol):
    """What a session tells its driver."""

    def delivered(self, queue: str, tag: int, packet: Packet, redelivered: bool) -> None:
        """A delivery arrived."""

    def confirmed(self, tag: int, multiple: bool, ok: bool, *, stream: str) -> None:
        """The broker confirmed, or refused, publishes: of a stream's channel, or "" of the other.

        `stream` is the exchange that feeds it.
        """

    def returned(self, packet: Packet) -> None:
        """A mandatory message matched no queue."""

    def cancelled(self, queue: str) -> None:
        """The broker cancelled a consumer: its queue is gone, or it took too long to settle."""

    def blocked(self, is_blocked: bool) -> None:
        """The broker blocks or unblocks publishers of this connection."""

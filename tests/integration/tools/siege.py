"""A running lab under fuzzed records and headers: what was sent, and what became of it."""

import random as randomness
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from integration.tools.fuzz import ACKED, NOWHERE, SKIPPED, dead, encode
from integration.tools.fuzz_headers import fields
from integration.tools.fuzz_records import RecordFuzzer
from integration.tools.raw_amqp import Closed, RawPublisher, properties_bytes

from service_runtime.amqp.pika_packets import ReadableProperties, packet_of
from vm_protocol import limits, messages, topology
from vm_protocol.codec import Packet
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.intake import Delivery, read_dead_letter, read_message
from vm_protocol.trust import ANYBODY, Trust

RECORDS = (topology.RECORDS.name, topology.JOURNAL_QUEUE.name)
LETTERS = (topology.DEAD_LETTERS.name, "")
TAKEN = "taken"
"""The fate of a well-formed message that a queue's consumer does not expect there."""

JOURNAL = "read or skipped"
"""The fate of odd headers in the journal: a stream keeps some of them, and changes others."""

GOOD_RECORD = b'{"schema":1,"seq":0,"actor":"lab","event":"vm.freed","lamport":0,"at_ns":0}'


@dataclass
class Siege:
    """Publishes as one user; `targets` are where, `user` is named in each message if it is given.

    `wanted` counts fates as the contract has them, `refused` what the broker itself did not take.
    """

    url: str
    random: randomness.Random
    targets: list[tuple[str, str]]
    user: str | None = None
    trust: Trust = ANYBODY
    wanted: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    _publisher: RawPublisher | None = None

    def send_records(self, count: int) -> None:
        """Publish journal messages that are spoilt in one place."""
        fuzzer = RecordFuzzer(self.random, self.user, self.trust)
        for each in fuzzer.make(count, time.time_ns()):
            packet = Packet(each.body, self._named({"type": "Records"}), {})
            fate = SKIPPED if each.skipped else "read"
            self._send(RECORDS, packet, [], fate)

    def send_headers(self, count: int) -> None:
        """Publish messages with odd header fields to every target, the journal and the letters."""
        for number in range(count):
            remove = messages.RemoveVm(vm=f"fuzz-{number}")
            packet = encode(remove, NOWHERE, limits.MANAGER_EPOCH)
            target = self.random.choice([*self.targets, RECORDS, LETTERS])
            if target == RECORDS:
                packet = Packet(GOOD_RECORD, {"type": "Records"}, {})
            packet = replace(packet, properties=self._named(dict(packet.properties)))
            odd = fields(self.random)
            given = {name for name, _ in odd}
            headers = {k: v for k, v in packet.headers.items() if k.encode() not in given}
            packet = replace(packet, headers=headers)
            self._send(target, packet, odd, self._fate(target, packet, odd))

    def close(self) -> None:
        """Let the connection go."""
        if self._publisher is not None:
            self._publisher.close()

    def _named(self, properties: dict[str, Any]) -> dict[str, Any]:
        return properties if self.user is None else {**properties, "user_id": self.user}

    def _send(
        self, target: tuple[str, str], packet: Packet, odd: list[tuple[bytes, bytes]], fate: str
    ) -> None:
        try:
            if self._publisher is None:
                self._publisher = RawPublisher(self.url)
            self._publisher.publish(*target, packet, *odd)
        except (Closed, OSError):
            self.refused += 1
            self.close()
            self._publisher = None
        else:
            self.wanted[fate] += 1

    def _fate(self, target: tuple[str, str], packet: Packet, odd: list[tuple[bytes, bytes]]) -> str:
        """Return what the contract says of a message, were it delivered as it is sent."""
        decoded = ReadableProperties().decode(properties_bytes(packet, *odd))
        arrived = packet_of(decoded, packet.body)
        delivery = Delivery(target[1], arrived, False, 0)
        try:
            if target == RECORDS:
                return JOURNAL
            if target == LETTERS:
                read_dead_letter(delivery, "letter", self.trust)
                raise AssertionError("a message without x-death is no letter")
            read_message(delivery, self.trust)
        except RemoteProtocolError as error:
            return SKIPPED if target == LETTERS else dead(error.reason)
        is_manager_s = target[1] == topology.MANAGER_COMMANDS_QUEUE.name
        return ACKED if is_manager_s else TAKEN


def settle(read: Callable[[], int], count: int, patience_s: float = 120) -> int:
    """Wait until a number has reached a count, or stays where it is; return it."""
    deadline = time.monotonic() + patience_s
    while True:
        now = 0
        with suppress(OSError):
            now = read()
        if now >= count or time.monotonic() > deadline:
            return now
        time.sleep(0.5)

"""Records that only look right: each of every event, spoilt in one place; seeded."""

import json
import random as randomness
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from support.simulated import VM, run

from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_manager.monitor import SKIPPED
from vm_protocol import details, topology
from vm_protocol.codec import Packet
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.intake import Delivery, read_journal
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.trust import ANYBODY, Trust

RICH = Scenario(
    vcpus=2, async_pf=1, avic=True, nested=(1,), in_guest=(0,), previous_roots=1, ticker_ms=2
)
VMS = 300
"""Names that the records are about: more VMs than a monitor remembers of hearsay."""


def samples() -> list[dict[str, Any]]:
    """Return records of every event: those that runs make, and the rest made up."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in catalogue_names():
        for record in run(catalogue_entry(name).ordering, RICH, workers=2).everything:
            kind = str(record.details.get("type", ""))
            found.setdefault((str(record.event), kind), json.loads(record.to_line()))
    for event in Event:
        if not any(name == event for name, _ in found):
            made = {"schema": 1, "seq": 0, "actor": "lab", "event": str(event), "vm": VM}
            said = dict.fromkeys(sorted(details.names(event)), "x")
            found[str(event), ""] = {**made, "lamport": 1, "at_ns": 1, "details": said}
    return list(found.values())


@dataclass(frozen=True)
class FuzzedRecord:
    """One journal message, and whether the monitor must skip it."""

    body: bytes
    skipped: bool


class RecordFuzzer:
    """Makes journal messages with records of `actor`'s, or of whoever a sample's is."""

    def __init__(self, random: randomness.Random, user: str | None, trust: Trust = ANYBODY) -> None:
        self._random = random
        self._user = user
        self._trust = trust
        self._samples = samples()

    def make(self, count: int, now_ns: int) -> Iterator[FuzzedRecord]:
        """Yield messages; every sample has its turn."""
        for number in range(count):
            record = self._renamed(self._samples[number % len(self._samples)])
            record["at_ns"], record["seq"] = now_ns + number, number
            if self._random.random() < 0.5 and self._user is not None:
                record["actor"] = "lab"
            self._spoil(record)
            body = json.dumps(record).encode()
            if self._random.random() < 0.05:
                body = body[: self._random.randrange(1, len(body))]
            yield FuzzedRecord(body, self._is_skipped(body))

    def _renamed(self, sample: dict[str, Any]) -> dict[str, Any]:
        vm = f"fuzz-{self._random.randrange(VMS)}"
        renamed: dict[str, Any] = json.loads(json.dumps(sample).replace(VM, vm))
        return renamed

    def _is_skipped(self, body: bytes) -> bool:
        packet = Packet(body, {"user_id": self._user}, {})
        try:
            read_journal(
                Delivery(topology.JOURNAL_QUEUE.name, packet, False, 0), SKIPPED, self._trust
            )
        except RemoteProtocolError:
            return True
        return False

    def _spoil(self, record: dict[str, Any]) -> None:
        """Change, remove or add one thing, at any depth; details above all."""
        place: Any = record["details"] if self._random.random() < 0.8 else record
        while place:
            names = list(place) if isinstance(place, dict) else list(range(len(place)))
            name = self._random.choice(names)
            inner = place[name]
            if isinstance(inner, dict | list) and inner and self._random.random() < 0.6:
                place = inner
                continue
            roll = self._random.random()
            if roll < 0.2:
                del place[name]
            elif roll < 0.3 and isinstance(place, dict):
                place["surplus"] = self._odd()
            else:
                place[name] = self._odd()
            return
        record["details"]["surplus"] = self._odd()

    def _odd(self) -> Any:
        random = self._random
        deep: Any = 0
        for _ in range(random.randrange(1, 200)):
            deep = [deep] if random.random() < 0.5 else {"k": deep}
        odd: list[Any] = [
            None,
            True,
            -1,
            0,
            5,
            0.5,
            2**31,
            2**63,
            10**400,
            1e308,
            float("inf"),
            "",
            "x",
            "y" * 300,
            "z" * random.randrange(1_000, 50_000),
            "\u0000",
            "\ud800",
            [],
            [5],
            [[0]],
            [None],
            ["x"] * 5_000,
            list(range(2_000)),
            {},
            {"recipients": 5},
            {"": {}},
            deep,
        ]
        return random.choice(odd)

"""The gate of a replay: holds every delivery and timer of a service until a conductor lets it in.

Used only when TEARDOWN_GATE names a conductor; otherwise everything passes at once (`passage.py`).
One JSON object a line, both ways. To the conductor: `{"arrived": n, "queue", "message_id"}`,
`{"arrived": n, "timer"}`, and `{"handled": n}` once all that followed is confirmed. From it:
`{"release": n}`, `{"release": n, "keep": true}` (handled, and handed in again later as a copy),
`{"open": true}`, after which everything passes, and `{"close": true}`, after which nothing does,
answered by `{"closed": true}`.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from service_runtime.amqp.settlements import Settlements
from service_runtime.passage import Enqueue, Passage, Take
from vm_protocol import topology
from vm_protocol.actor import Plan
from vm_protocol.codec import Packet

UNGATED = (topology.JOURNAL_QUEUE.name, topology.DEAD_LETTERS_QUEUE.name)
"""Queues that only tell of what has happened; to hold them would hide it."""


@dataclass(slots=True)
class _Waiting:
    take: Take
    enqueue: Enqueue
    is_copy: bool = False


class Gate(Passage):
    """One service's end of the wire; shared by the drivers of its process."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._numbers = count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._taken: list[int] = []
        self._writer: asyncio.StreamWriter | None = None
        self._serving: asyncio.Task[None] | None = None
        self._is_open = False

    async def connect(self) -> None:
        """Connect to the conductor, before anything can arrive.

        Raises:
            OSError: The conductor does not listen.
        """
        reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._serving = asyncio.create_task(self._serve(reader))

    def close(self) -> None:
        """Leave the conductor."""
        if self._serving is not None:
            self._serving.cancel()
        if self._writer is not None:
            self._writer.close()

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        """Obey the conductor until it opens the gate or goes away; then everything passes."""
        with suppress(ConnectionError):
            while line := await reader.readline():
                self._obey(json.loads(line))
        # A conductor that is gone must not leave the services standing still.
        self._open()

    def _obey(self, order: dict[str, Any]) -> None:
        if order.get("open"):
            self._open()
            return
        if order.get("close"):
            self._is_open = False
            self._say({"closed": True})
            return
        number = order["release"]
        waiting = self._waiting[number] if order.get("keep") else self._waiting.pop(number)
        self._let_in(number, waiting)
        waiting.is_copy = True

    def _let_in(self, number: int, waiting: _Waiting) -> None:
        is_copy = waiting.is_copy

        def handler() -> Plan:
            self._taken.append(number)
            return waiting.take(is_copy)

        waiting.enqueue(handler)

    def _open(self) -> None:
        self._is_open = True
        held, self._waiting = self._waiting, {}
        for number, waiting in held.items():
            # What was let in already and only kept for a copy is not let in again.
            if not waiting.is_copy:
                self._let_in(number, waiting)

    def arrived(self, queue: str, packet: Packet, take: Take, enqueue: Enqueue) -> None:
        """Hold a delivery, or let it pass if the gate is open or need not know of it."""
        if self._is_open or queue in UNGATED:
            enqueue(take)
            return
        message_id = str(packet.properties.get("message_id"))
        self._hold({"queue": queue, "message_id": message_id}, take, enqueue)

    def fired(self, timer: str, take: Take, enqueue: Enqueue) -> None:
        """Hold a timer that has fired."""
        if self._is_open:
            enqueue(take)
        else:
            self._hold({"timer": timer}, take, enqueue)

    def _hold(self, said: dict[str, Any], take: Take, enqueue: Enqueue) -> None:
        number = next(self._numbers)
        self._waiting[number] = _Waiting(take, enqueue)
        self._say({"arrived": number, **said})

    def settling(self, settlements: Settlements) -> Callable[[], None]:
        """Return what settles a batch and then tells the conductor what was handled in it."""
        # Kept for the batch that is about to be stepped; the next batch gets a list of its own.
        taken = self._taken = []

        def settle() -> None:
            settlements.perform()
            for number in taken:
                self._say({"handled": number})

        return settle

    def _say(self, said: dict[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(said).encode() + b"\n")

"""The conductor of replays: lets deliveries into the services in the order of a schedule.

It is armed before each run. Until DestroyVm arrives everything passes but the ticker, which is a
turn of the schedule. From then on one turn at a time: wait until its delivery has arrived at some
service, release it, wait until all that followed is confirmed. After the last turn every gate
opens, and the run ends by itself.
Lives on a thread with a loop of its own.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from teardown_lab.explorer.keys import delivery_key, timer_key
from teardown_lab.explorer.schedule import Turn
from vm_protocol.timers import TimerKind

TURN_SECONDS_MAX: Final = 20.0
"""How long the delivery of a turn may take to arrive, or to be handled."""

BEGIN_KEY: Final = "destroy-vm"
CREATION_KEYS: Final = ("placement-answered/", "vcpu-placed/", "place-vcpu/")
"""Of a VM's creation, which the exploration has behind it: they pass whenever they come."""


class ReplayFailed(Exception):
    """A turn's delivery did not arrive, or was not handled: the run is another than explored."""


@dataclass(eq=False, slots=True)
class _Arrival:
    key: str
    number: int
    writer: asyncio.StreamWriter


@dataclass(slots=True)
class _Desk:
    """What has arrived and is held, in the order of arrival; what was handled, by service."""

    held: list[_Arrival] = field(default_factory=list)
    handled: set[tuple[asyncio.StreamWriter, int]] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def find(self, key: str) -> _Arrival | None:
        return next((arrival for arrival in self.held if arrival.key == key), None)


class Conductor:
    """Listens for gates on 127.0.0.1, and plays schedules, one a run; see `conduct`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, turn_seconds_max: float) -> None:
        self._loop = loop
        self._turn_seconds_max = turn_seconds_max
        self._turns: tuple[Turn, ...] = ()
        self._desk = _Desk()
        self._writers: list[asyncio.StreamWriter] = []
        self._closed: set[asyncio.StreamWriter] = set()
        self._copies: Counter[str] = Counter()
        self._has_begun = False
        self._playing: asyncio.Task[None] | None = None
        self.failure: str | None = None
        self.played_count = 0
        self.port = 0

    def arm(self, turns: tuple[Turn, ...]) -> None:
        """Get ready for the next run: every gate is closed when this returns.

        Raises:
            TimeoutError: A gate does not answer.
        """
        armed = asyncio.run_coroutine_threadsafe(self._arm(turns), self._loop)
        armed.result(self._turn_seconds_max)

    async def _arm(self, turns: tuple[Turn, ...]) -> None:
        if self._playing is not None:
            self._playing.cancel()
        self._turns, self._playing = turns, None
        self._copies = Counter(key for turn in turns for key in turn.returned)
        self._has_begun, self.failure, self.played_count = False, None, 0
        self._desk.held.clear()
        self._desk.handled.clear()
        self._closed.clear()
        for writer in self._writers:
            self._order(writer, {"close": True})
        while not self._closed.issuperset(self._writers):
            self._desk.changed.clear()
            await self._desk.changed.wait()

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Serve gates until told to stop."""
        server = await asyncio.start_server(self._serve_gate, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await stop.wait()
        if self._playing is not None:
            self._playing.cancel()
        for writer in list(self._writers):
            writer.close()

    async def _serve_gate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while line := await reader.readline():
                self._hear(json.loads(line), writer)
        except ConnectionError:
            pass
        writer.close()
        self._writers.remove(writer)
        self._desk.changed.set()

    def _hear(self, said: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        desk = self._desk
        if "closed" in said:
            self._closed.add(writer)
        elif "handled" in said:
            desk.handled.add((writer, said["handled"]))
        else:
            arrival = _Arrival(_key(said), said["arrived"], writer)
            if arrival.key == BEGIN_KEY and not self._has_begun:
                self._has_begun = True
                self._playing = asyncio.create_task(self._play())
            is_creation = arrival.key.startswith(CREATION_KEYS)
            if arrival.key == TimerKind.TICK or (self._has_begun and not is_creation):
                desk.held.append(arrival)
            else:
                self._order(writer, {"release": arrival.number})
        desk.changed.set()

    def _order(self, writer: asyncio.StreamWriter, order: dict[str, Any]) -> None:
        writer.write(json.dumps(order).encode() + b"\n")

    # --- playing -------------------------------------------------------------------------

    async def _play(self) -> None:
        try:
            for turn in self._turns:
                async with asyncio.timeout(self._turn_seconds_max):
                    await self._take(turn)
                self.played_count += 1
        except TimeoutError:
            turn = self._turns[self.played_count]
            held = ", ".join(arrival.key for arrival in self._desk.held) or "nothing"
            self.failure = (
                f"turn {self.played_count + 1} of {len(self._turns)}, {turn.act} {turn.key}, "
                f"does not come to pass within {self._turn_seconds_max:g} s; held are {held}"
            )
        for writer in self._writers:
            self._order(writer, {"open": True})

    async def _take(self, turn: Turn) -> None:
        if turn.act == "copy":
            self._copies[turn.key] += 1
        if turn.act in ("copy", "hold", "lose"):
            return
        arrival = await self._arrived(turn.key)
        await self._release(arrival)

    async def _arrived(self, key: str) -> _Arrival:
        while (arrival := self._desk.find(key)) is None:
            self._desk.changed.clear()
            await self._desk.changed.wait()
        return arrival

    async def _release(self, arrival: _Arrival) -> None:
        """Release a delivery, keep it for its copies, and wait until it is handled."""
        desk = self._desk
        keep = self._copies[arrival.key] > 0
        if keep:
            self._copies[arrival.key] -= 1
        else:
            desk.held.remove(arrival)
        order = {"release": arrival.number, "keep": True} if keep else {"release": arrival.number}
        desk.handled.discard((arrival.writer, arrival.number))
        self._order(arrival.writer, order)
        while (arrival.writer, arrival.number) not in desk.handled:
            desk.changed.clear()
            await desk.changed.wait()


def _key(said: dict[str, Any]) -> str:
    """Return the schedule's key of what a gate reports."""
    if "timer" in said:
        return timer_key(str(said["timer"]))
    return delivery_key(str(said["message_id"]), said["queue"])


def check_turns(turns: tuple[Turn, ...]) -> None:
    """Look through a schedule before anything is started.

    Raises:
        ReplayFailed: The schedule has a turn that no real run can be made to take.
    """
    for turn in turns:
        if turn.act in ("complete", "drop"):
            raise ReplayFailed(f"a real run cannot be made to {turn.act} {turn.key}")
        if turn.act in ("crash", "supersede") or turn.crashed is not None:
            raise ReplayFailed(
                "a real run cannot yet be made to crash or supersede its manager "
                f"(turn {turn.act} {turn.key}); `--broker simulated` plays this schedule"
            )


@contextmanager
def conduct(turn_seconds_max: float = TURN_SECONDS_MAX) -> Iterator[Conductor]:
    """Run a conductor on a thread of its own; it has a port, and is armed before each run."""
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    conductor = Conductor(loop, turn_seconds_max)
    stop = asyncio.Event()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(conductor.serve(ready, stop))
        loop.close()

    thread = threading.Thread(target=work, name="conductor", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield conductor
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()

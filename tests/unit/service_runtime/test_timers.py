"""Timers of the RabbitMQ driver, on a loop whose clock a test turns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from service_runtime import timers as timers_module
from service_runtime.timers import Timers
from vm_protocol.codec import Packet, voice
from vm_protocol.effects import SetTimer
from vm_protocol.recorder import NO_CAUSE

PACKET = Packet(b"", {}, {})
WORD = {"type": "WorkerAlive", "message_id": "vm-0.1/worker-alive/w/1"}
OF = voice("worker.w", "vm-0.1")


@dataclass
class Handle:
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class TurnedLoop:
    """What timers use of an asyncio loop."""

    now_s: float = 100.0
    calls: list[tuple[float, Handle, Callable[..., None], tuple[Any, ...]]] = field(
        default_factory=list
    )

    def time(self) -> float:
        return self.now_s

    def call_at(self, when_s: float, call: Callable[..., None], *arguments: Any) -> Handle:
        handle = Handle()
        self.calls.append((when_s, handle, call, arguments))
        return handle

    def turn(self, seconds: float) -> None:
        """Let time pass, and call what is due at its own time."""
        end_s = self.now_s + seconds
        while due := [each for each in self.calls if each[0] <= end_s]:
            first = min(due, key=lambda each: each[0])
            self.calls.remove(first)
            self.now_s = max(self.now_s, first[0])
            if not first[1].cancelled:
                first[2](*first[3])
        self.now_s = end_s


class Bench:
    def __init__(self, loop: TurnedLoop) -> None:
        self.loop = loop
        self.fired: list[tuple[str, float]] = []
        self.backlog = False
        self.timers = Timers(self._fire, lambda: self.backlog)

    def _fire(self, timer: SetTimer, _: object) -> None:
        self.fired.append((timer.name, round(self.loop.now_s - 100, 3)))

    def set(self, name: str, seconds: float, *, quiet: bool = False) -> None:
        self.timers.set(SetTimer(name, int(seconds * 1000), quiet), NO_CAUSE)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    loop = TurnedLoop()
    monkeypatch.setattr(timers_module.asyncio, "get_running_loop", lambda: loop)
    return Bench(loop)


def test_a_timer_fires_once_when_it_is_due(bench: Bench) -> None:
    bench.set("tick", 2)
    bench.timers.stir(PACKET)
    bench.loop.turn(10)

    assert bench.fired == [("tick", 2.0)]


def test_a_timer_that_is_set_again_or_cancelled_fires_no_more(bench: Bench) -> None:
    bench.set("again", 2)
    bench.set("forgotten", 2)
    bench.loop.turn(1)
    bench.set("again", 2)
    bench.timers.cancel("forgotten")
    bench.timers.cancel("unknown")
    bench.loop.turn(10)

    assert bench.fired == [("again", 3.0)]


def test_timers_stand_still_for_as_long_as_any_reason_holds_and_begin_anew(bench: Bench) -> None:
    bench.set("before", 2)
    bench.loop.turn(1)
    bench.timers.suspend("blocked")
    bench.timers.suspend("no session")
    bench.set("meanwhile", 3)
    bench.loop.turn(40)
    bench.timers.resume("no session")
    bench.loop.turn(40)
    nothing = list(bench.fired)
    bench.timers.resume("blocked")
    bench.loop.turn(10)

    assert (nothing, bench.fired) == ([], [("before", 83.0), ("meanwhile", 84.0)])


def test_a_quiet_timer_measures_only_time_in_which_nothing_arrives(bench: Bench) -> None:
    bench.set("fence", 2, quiet=True)
    for _ in range(5):
        bench.loop.turn(1.5)
        bench.timers.stir(PACKET)
    bench.loop.turn(10)

    assert bench.fired == [("fence", 9.5)]


def test_a_quiet_timer_does_not_fire_while_something_waits_to_be_looked_at(bench: Bench) -> None:
    bench.set("fence", 2, quiet=True)
    bench.backlog = True
    bench.loop.turn(5)
    bench.backlog = False
    bench.loop.turn(5)

    assert bench.fired == [("fence", 6.0)]


def test_a_lease_begins_anew_with_whatever_its_worker_says_about_its_vm(bench: Bench) -> None:
    bench.timers.set(SetTimer("lease", 2_000, quiet=True, of=OF), NO_CAUSE)
    for message_id in ("vm-0.1/worker-alive/w/1", "vm-0.1/vcpu-steps-done/0/1/done"):
        bench.loop.turn(1.5)
        bench.timers.stir(Packet(b"", {"message_id": message_id}, {"x-sender": "worker.w"}))
    bench.loop.turn(10)

    assert bench.fired == [("lease", 5.0)]


@pytest.mark.parametrize(
    ("sender", "message_id"),
    [
        ("worker.other", "vm-0.1/worker-alive/w/1"),
        ("worker.w", "vm-1.1/worker-alive/w/1"),
        ("worker.w", "vm-0.2/worker-alive/w/1"),
        (None, "no id"),
    ],
)
def test_a_lease_is_not_renewed_by_others_nor_by_words_about_others(
    bench: Bench, sender: str | None, message_id: str
) -> None:
    bench.timers.set(SetTimer("lease", 2_000, quiet=True, of=OF), NO_CAUSE)
    bench.loop.turn(1)
    bench.timers.stir(Packet(b"", {"message_id": message_id}, {"x-sender": sender}))
    bench.loop.turn(10)

    assert bench.fired == [("lease", 2.0)]


def test_a_lease_does_not_run_out_while_something_waits_to_be_looked_at(bench: Bench) -> None:
    bench.timers.set(SetTimer("lease", 2_000, quiet=True, of=OF), NO_CAUSE)
    bench.backlog = True
    bench.loop.turn(9.1)
    bench.backlog = False
    bench.loop.turn(10)

    assert bench.fired == [("lease", 9.2)]


def test_a_sign_of_life_is_nothing_to_whoever_waits_for_silence(bench: Bench) -> None:
    bench.set("fence", 2, quiet=True)
    for _ in range(3):
        bench.loop.turn(0.5)
        bench.timers.stir(Packet(b"", WORD, {"x-sender": "worker.w"}))
    bench.loop.turn(10)

    assert bench.fired == [("fence", 2.0)]

"""A core's timers on asyncio's loop; what they mean is the core's matter.

A timer measures time in which the broker is in reach: it stands still while there is no session or
the broker blocks publishers, and begins anew afterwards. While nothing can arrive, waiting proves
nothing. A quiet timer begins anew with each delivery as well, or with each of one voice. Signs of
life tell of their voice, and are no delivery to anybody else who waits for silence.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vm_protocol.codec import Packet, voice_of
from vm_protocol.effects import SetTimer
from vm_protocol.messages import SIGNS_OF_LIFE
from vm_protocol.recorder import Cause

_MOMENT: Final = 0.1
"""Part of a lease after which a busy actor looks again whether it has run out."""


@dataclass(slots=True)
class _Timer:
    """One timer; `handle` is None while it stands still, `begun_s` is the loop's time."""

    wanted: SetTimer
    cause: Cause
    handle: asyncio.TimerHandle | None = None
    begun_s: float = 0.0


class Timers:
    """Timers by name; `fire` gets what was set, and the cause that it was set with.

    `is_busy` tells whether something has arrived that nobody has looked at yet.
    """

    def __init__(
        self, fire: Callable[[SetTimer, Cause], None], is_busy: Callable[[], bool] = lambda: False
    ) -> None:
        self._fire = fire
        self._is_busy = is_busy
        self._timers: dict[str, _Timer] = {}
        self._stirred_s = 0.0
        self._heard_s: dict[str, float] = {}
        self._stopped_by: set[str] = set()

    def set(self, wanted: SetTimer, cause: Cause) -> None:
        """Start a timer; one of that name is replaced."""
        self.cancel(wanted.name)
        self._timers[wanted.name] = _Timer(wanted, cause)
        if wanted.of:
            self._heard_s.setdefault(wanted.of, 0.0)
        if not self._stopped_by:
            self._start(wanted.name)

    def cancel(self, name: str) -> None:
        """Forget a timer; unknown names are fine."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            self._heard_s.pop(timer.wanted.of, None)
            if timer.handle is not None:
                timer.handle.cancel()

    def forget(self) -> None:
        """Forget all of them."""
        for name in tuple(self._timers):
            self.cancel(name)

    def stir(self, packet: Packet) -> None:
        """Take note that something arrived."""
        now_s = asyncio.get_running_loop().time()
        if packet.properties.get("type") not in SIGNS_OF_LIFE:
            self._stirred_s = now_s
        if self._heard_s and (voice := voice_of(packet)) in self._heard_s:
            self._heard_s[voice] = now_s

    def suspend(self, why: str) -> None:
        """Stop all timers until `resume` for this reason, and for every other that holds."""
        self._stopped_by.add(why)
        for timer in self._timers.values():
            if timer.handle is not None:
                timer.handle.cancel()
                timer.handle = None

    def resume(self, why: str) -> None:
        """Start all timers from their beginning, unless another reason still holds."""
        self._stopped_by.discard(why)
        if self._stopped_by:
            return
        for name, timer in self._timers.items():
            if timer.handle is None:
                self._start(name)

    def _start(self, name: str) -> None:
        timer = self._timers[name]
        timer.begun_s = asyncio.get_running_loop().time()
        self._wait(timer, timer.begun_s)

    def _wait(self, timer: _Timer, since_s: float) -> None:
        loop = asyncio.get_running_loop()
        due_s = since_s + timer.wanted.delay_ms / 1000
        timer.handle = loop.call_at(due_s, self._due, timer.wanted.name)

    def _due(self, name: str) -> None:
        timer = self._timers[name]
        now_s = asyncio.get_running_loop().time()
        if timer.wanted.quiet:
            quiet_since_s = self._quiet_since(timer, now_s)
            if quiet_since_s + timer.wanted.delay_ms / 1000 > now_s:
                self._wait(timer, quiet_since_s)
                return
        del self._timers[name]
        self._heard_s.pop(timer.wanted.of, None)
        self._fire(timer.wanted, timer.cause)

    def _quiet_since(self, timer: _Timer, now_s: float) -> float:
        """Return since when it is quiet, as far as a timer that is due is concerned."""
        of = timer.wanted.of
        since_s = max(timer.begun_s, self._heard_s.get(of, 0.0) if of else self._stirred_s)
        if not self._is_busy():
            return since_s
        # What has arrived and was not looked at ends the silence now: the machine is busy. If it is
        # not the voice that is missed, that one may still be behind it: look again in a moment.
        moment_s = timer.wanted.delay_ms / 1000 * _MOMENT
        return max(since_s, now_s - timer.wanted.delay_ms / 1000 + moment_s) if of else now_s

"""A core's timers on asyncio's loop; what they mean is the core's matter.

A timer measures time in which the broker is in reach: it begins anew with each session. A fence
waits for its mailbox, and while nothing can arrive, waiting proves nothing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from vm_protocol.recorder import Cause


@dataclass(slots=True)
class _Timer:
    """One timer; `handle` is None while there is no session."""

    delay_ms: int
    cause: Cause
    handle: asyncio.TimerHandle | None = None


class Timers:
    """Timers by name; `fire` gets the name and the cause that a due one was set with."""

    def __init__(self, fire: Callable[[str, Cause], None]) -> None:
        self._fire = fire
        self._timers: dict[str, _Timer] = {}

    def set(self, name: str, delay_ms: int, cause: Cause) -> None:
        """Start a timer; one of that name is replaced."""
        self.cancel(name)
        self._timers[name] = _Timer(delay_ms, cause)
        self._start(name)

    def cancel(self, name: str) -> None:
        """Forget a timer; unknown names are fine."""
        timer = self._timers.pop(name, None)
        if timer is not None and timer.handle is not None:
            timer.handle.cancel()

    def suspend(self) -> None:
        """Stop all timers until `resume`: the session is lost."""
        for timer in self._timers.values():
            if timer.handle is not None:
                timer.handle.cancel()
                timer.handle = None

    def resume(self) -> None:
        """Start all suspended timers from their beginning."""
        for name, timer in self._timers.items():
            if timer.handle is None:
                self._start(name)

    def _start(self, name: str) -> None:
        timer = self._timers[name]
        loop = asyncio.get_running_loop()
        timer.handle = loop.call_later(timer.delay_ms / 1000, self._due, name)

    def _due(self, name: str) -> None:
        timer = self._timers.pop(name)
        self._fire(name, timer.cause)

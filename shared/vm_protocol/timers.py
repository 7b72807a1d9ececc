"""The names of the services' timers: formed and taken apart here, and nowhere else.

A name says what the timer is for and whom it is about: `tick/vm-0`, `fence/vcpu.vm-0.1.1`. Names
are an actor's own; no message and no record carries one.
"""

from dataclasses import dataclass
from enum import StrEnum

from vm_protocol.errors import LocalProtocolError


class TimerKind(StrEnum):
    """What a timer is for; whom it is about is a VM, unless another is named."""

    TICK = "tick"
    """Drives the kvmclock ticker."""
    FLUSH = "flush"
    """Bounds the wait for a flush's acknowledgements."""
    QUARANTINE = "quarantine"
    """Ends the quarantine."""
    PLACING = "placing"
    """Looks again whether the creation whose vCPUs are being placed gets on."""
    WAITING = "waiting"
    """Ends a creation's wait for its turn."""
    FENCE = "fence"
    """Bounds a free's wait for its mailbox; about that mailbox."""
    LEASE = "lease"
    """Ends a manager's wait for a word of a worker; about a VM and that worker (`vm/worker`)."""
    ALIVE = "alive"
    """Has a worker say again that it is alive; about the worker."""
    LAPSE = "lapse"
    """Ends a worker's own lease if the worker was paused for all of it; about the worker."""
    LETTER = "letter"
    """Bounds the monitor's wait for a dead letter's records; about that letter."""

    def of(self, about: str) -> str:
        """Return the name of the timer of this kind about somebody."""
        return f"{self}/{about}"


DEADLINES = (TimerKind.FENCE, TimerKind.FLUSH)
"""The kinds that end a teardown's wait for something that does not come."""


LEASES = (TimerKind.LEASE, TimerKind.ALIVE, TimerKind.LAPSE)
"""The kinds that tell who lives: no part of what a teardown does."""


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer's name, taken apart."""

    kind: TimerKind
    about: str

    def __str__(self) -> str:
        return self.kind.of(self.about)


_KINDS = {str(kind): kind for kind in TimerKind}


def parse_timer(name: str) -> Timer:
    """Return the timer that a name stands for.

    Raises:
        LocalProtocolError: No service sets a timer of this name.
    """
    kind, _, about = name.partition("/")
    if kind not in _KINDS or not about:
        raise LocalProtocolError(f"no service sets a timer {name!r}")
    return Timer(_KINDS[kind], about)

"""What can be chosen in a state, as numbers: a kind, and what it is done with."""

from dataclasses import dataclass
from typing import Final

DELIVER, RELEASE, TICK, DUPLICATE, REDELIVER, HOLD, DEADLINE, COMPLETE, LOSE, CRASH, VANISH = range(
    11
)
SPAN: Final = 1 << 16
CRASHED: Final = SPAN << 16
"""`CRASHED * (out + 1)` plus a choice: the manager crashes in its step, with `out` effects out."""
STALE: Final = CRASHED << 16
"""`STALE` plus a choice: a manager that is superseded takes its step."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice, taken apart: what is done, and to which queue, copy, timer or fault.

    `out` is set where the manager crashes in the step that this begins (crashes.py), `stale` where
    that step is a superseded manager's (superseding.py).
    """

    kind: int
    index: int
    out: int | None = None
    stale: bool = False

    @property
    def number(self) -> int:
        """Return the choice as one number."""
        crashed = 0 if self.out is None else CRASHED * (self.out + 1)
        return STALE * self.stale + crashed + self.kind * SPAN + self.index


def split_choice(number: int) -> Choice:
    """Return the choice that a number stands for."""
    stale, number = divmod(number, STALE)
    crash, number = divmod(number, CRASHED)
    return Choice(*divmod(number, SPAN), crash - 1 if crash else None, bool(stale))

"""What can be chosen in a state, as numbers: a kind, and what it is done with."""

from dataclasses import dataclass
from typing import Final

DELIVER, RELEASE, TICK, DUPLICATE, REDELIVER, HOLD, DEADLINE, COMPLETE, LOSE = range(9)
SPAN: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice, taken apart: what is done, and to which queue, copy, timer or fault."""

    kind: int
    index: int

    @property
    def number(self) -> int:
        """Return the choice as one number."""
        return self.kind * SPAN + self.index


def split_choice(number: int) -> Choice:
    """Return the choice that a number stands for."""
    return Choice(*divmod(number, SPAN))

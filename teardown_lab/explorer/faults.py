"""Which faults an exploration may choose, and how often; data."""

import re
from dataclasses import dataclass, fields
from typing import Final

from vm_protocol.messages import VmStateRead

LOSABLE: Final = (VmStateRead,)
"""Messages that may get lost, as nobody waits for them; docs/explorer.md tells of all others."""


class FaultsError(ValueError):
    """The text of `--faults` names no fault, or no number."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How often each choice may still be made on the way from here.

    `ticks`: the ticker fires. `duplicate`: a message reaches its queue twice, the copy at any
    later time. `redeliver`: a delivery is handled, its acknowledgement is lost with the
    connection, and the broker delivers it again. `hold`: a message is delayed without bound.
    `crash`: the manager crashes, and another one takes over (crashes.py). `stale`: another manager
    takes over, and the old one goes on (superseding.py). `drop`: one of LOSABLE is lost.
    """

    ticks: int = 0
    duplicate: int = 0
    redeliver: int = 0
    hold: int = 0
    crash: int = 0
    stale: int = 0
    drop: int = 0

    @property
    def meet_heads(self) -> bool:
        """Tell whether there are faults that meet the head of any queue."""
        return bool(self.duplicate or self.redeliver or self.hold)

    def as_dict(self) -> dict[str, int]:
        """Return the faults that are there, by name, the ticker left out."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: count for name, count in pairs if count and name != "ticks"}


def parse_faults(text: str, ticks: int) -> Budget:
    """Return the budget that `duplicate:1,redeliver:1` stands for.

    Raises:
        FaultsError: Names the part that is wrong, and the valid words.
    """
    valid = [field.name for field in fields(Budget) if field.name != "ticks"]
    counts: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition(":")
        if name not in valid:
            raise FaultsError(f"{name!r} is no fault; valid are {', '.join(valid)}, as duplicate:1")
        if number and not re.fullmatch(r"[0-9]{1,3}", number):
            raise FaultsError(f"{part!r}: how often is a whole number below 1000, as in {name}:1")
        counts[name] = int(number or 1)
    return Budget(ticks=ticks, **counts)

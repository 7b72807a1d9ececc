"""What a core's state says of itself, as named numbers: data for metrics, pure functions only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GaugeRow:
    """One gauge: its name, with the unit last, and how to read it off a core's state."""

    name: str
    help: str
    read: Callable[[Any], float]

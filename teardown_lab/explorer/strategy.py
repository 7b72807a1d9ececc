"""What every exploration strategy takes and gives; one strategy a file."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from teardown_lab.explorer.findings import DOUBTS, HAZARDS, Finding
from teardown_lab.explorer.model import Model

Path = tuple[int, ...]
FindingKey = tuple[str, int, bool]
"""Invariant, vCPU, whether the request was posted after the free."""

Progress = Callable[[int, int, int], None]
"""Called now and then with states, transitions and depth."""

CTRL_C = "stopped by Ctrl-C"

REPORT_EVERY = 4096
"""Transitions between two looks at the progress bar."""


class Deadline:
    """A moment at which work has to be over; `seconds` from now, without them never."""

    def __init__(self, seconds: float = math.inf) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, 0.0 when none are."""
        return max(0.0, self._end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Tell whether the moment has come."""
        return self.left() == 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """When to stop: states, seconds; and the seed of what is random.

    `first_only` stops after the first level with a finding: all equally short ones are then known.
    `deadline` is when the seconds are over, if they began before the search.
    """

    states_max: int = 5_000_000
    seconds_max: float = 600.0
    seed: int = 0
    reduce: bool = True
    first_only: bool = False
    deadline: Deadline | None = None


@dataclass(slots=True)
class Explored:
    """What an exploration covered and found.

    `paths` has the shortest way to each kind of finding. `doubts` has ways to what breaks no
    invariant and still must not happen (findings.DOUBTS), `hazards` ways to what breaks nothing.
    `reached` are the positions in the ordering that the manager came to. `digest` sums up all
    states in the order of their discovery, so that two equal explorations have equal digests.
    """

    states: int = 0
    transitions: int = 0
    depth: int = 0
    complete: bool = False
    stopped_by: str = ""
    paths: dict[FindingKey, Path] = field(default_factory=dict)
    doubts: dict[FindingKey, Path] = field(default_factory=dict)
    hazards: dict[FindingKey, Path] = field(default_factory=dict)
    witnessed: frozenset[str] = frozenset()
    reached: frozenset[int] = frozenset()
    digest: int = 0
    is_reduced: bool = False

    @property
    def is_interrupted(self) -> bool:
        """Tell whether a person has stopped it, and waits for the answer."""
        return self.stopped_by == CTRL_C

    def found(self, finding: Finding, path: Callable[[], Path]) -> None:
        """Note a finding, the first of its kind."""
        key = (finding.invariant, finding.vcpu, finding.late)
        known = self.doubts if finding.invariant in DOUBTS else self.paths
        known = self.hazards if finding.invariant in HAZARDS else known
        if key not in known:
            known[key] = path()

    def saw(self, state_hash: int) -> None:
        """Count a new state."""
        self.states += 1
        self.digest = (self.digest * 1_000_003 + state_hash) & 0xFFFF_FFFF_FFFF_FFFF


class Strategy(Protocol):
    """An exploration strategy."""

    def __call__(self, model: Model, bounds: Bounds, progress: Progress) -> Explored:
        """Explore until done or out of bounds; Ctrl-C ends it with what was found so far."""
        ...


class Meter:
    """Looks at the clock, and says why to stop."""

    def __init__(self, bounds: Bounds, progress: Progress) -> None:
        self._bounds = bounds
        self._progress = progress
        self._deadline = bounds.deadline or Deadline(bounds.seconds_max)
        self._next = REPORT_EVERY

    def stop(self, explored: Explored) -> str:
        """Return why the exploration has to stop, "" while it need not."""
        if explored.states > self._bounds.states_max:
            return f"stopped by budget: {self._bounds.states_max} states"
        if explored.transitions >= self._next:
            self._next = explored.transitions + REPORT_EVERY
            self._progress(explored.states, explored.transitions, explored.depth)
        if self._deadline.is_over:
            return f"stopped by budget: {self._bounds.seconds_max:g} s"
        return ""

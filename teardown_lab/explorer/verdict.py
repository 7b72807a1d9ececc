"""What an exploration amounts to: verdict, violations with their reasons, one counterexample."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from teardown_lab.checker.findings import Hazard, Violation
from teardown_lab.explorer import breadth_first
from teardown_lab.explorer.implied import Unseen, unseen
from teardown_lab.explorer.playing import Played, along, play
from teardown_lab.explorer.schedule import Schedule, turns
from teardown_lab.explorer.strategy import (
    CTRL_C,
    Bounds,
    Deadline,
    Explored,
    FindingKey,
    Path,
)
from teardown_lab.explorer.telling import Told, tell, untold
from vm_protocol.invariants import Invariant

SHORTEST_STATES_MAX: Final = 400_000
SHORTEST_SECONDS_MAX: Final = 20.0
"""How much a second, unreduced search for the shortest counterexample may cost."""

INTERRUPTED_SECONDS_MAX: Final = 5.0
"""How long what was found before Ctrl-C may be judged and told: a person waits."""


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A schedule, told; `kinds` has the length of the shortest one of each kind of post.

    `impossible` says why no broker does this, "" where one may.
    """

    schedule: Schedule
    told: Told
    key: FindingKey
    kinds: dict[str, int]
    is_shortest: bool
    violation: Violation
    impossible: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as a part of the JSON object."""
        return {
            "token": self.schedule.token(),
            "steps": len(self.schedule.path),
            "is_shortest": self.is_shortest,
            "invariant": self.key[0],
            "vcpu": None if self.key[1] < 0 else self.key[1],
            "explain": self.violation.explain,
            "impossible": self.impossible,
            "told": self.told.text,
            "deviations": self.told.deviations,
            "racing": list(self.told.racing),
            "race": self.told.race,
            "parts_at": self.told.parts_at,
            "kinds": self.kinds,
            "turns": [asdict(turn) for turn in turns(self.schedule.model(), self.schedule.path)],
        }


@dataclass(frozen=True, slots=True)
class ExplorerVerdict:
    """The whole answer; `missing` are required witnesses that nobody has seen.

    `disagreements` are findings that the checker does not confirm, `notes` what else is to be said;
    `interrupted` by Ctrl-C, during the search or while what it found was judged and told.
    """

    schedule: Schedule
    explored: Explored
    verdict: str
    missing: tuple[str, ...] = ()
    violations: tuple[Violation, ...] = ()
    counterexample: Counterexample | None = None
    disagreements: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hazards: tuple[Hazard, ...] = ()
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        """Tell whether everything was visited, and nobody stopped what comes after that."""
        return self.explored.complete and not self.interrupted

    def as_json(self, seconds: float) -> dict[str, Any]:
        """Return the JSON object of the contract (design, section 8)."""
        return {
            "schema": 1,
            "ordering": self.schedule.ordering.name,
            "scenario": self.schedule.scenario.model_dump(mode="json"),
            "faults": self.schedule.faults.as_dict(),
            "verdict": self.verdict,
            "complete": self.complete,
            "states": self.explored.states,
            "transitions": self.explored.transitions,
            "violations": [
                {
                    "invariant": str(each.invariant),
                    "vcpu": each.vcpu,
                    "message_id": each.message_id,
                    "explain": each.explain,
                }
                for each in self.violations
            ],
            "hazards": [{"hazard": str(each.hazard), "vcpu": each.vcpu} for each in self.hazards],
            "counterexample": self.counterexample.as_json() if self.counterexample else None,
            "seconds": round(seconds, 3),
            "covered": self.covered(),
            "reduced": self.explored.is_reduced,
            "ticks": self.schedule.faults.ticks,
            "digest": f"{self.explored.digest:016x}",
            "witnessed": sorted(self.explored.witnessed),
            "missing": list(self.missing),
            "notes": [*self.disagreements, *self.notes],
        }

    def covered(self) -> str:
        """Return what the exploration covered, in words."""
        faults = self.schedule.faults.as_dict()
        told = ", ".join(f"{count} {name}" for name, count in faults.items()) or "0 faults"
        states = f"{self.explored.states} states"
        count = self.schedule.scenario.vcpus
        vcpus = f"{count} vCPU{'s' * (count != 1)}"
        end = "complete" if self.complete else self.explored.stopped_by or CTRL_C
        return f"{end}: {vcpus}, {told}, {states}"


def conclude(
    schedule: Schedule, explored: Explored, deadline: Deadline | None = None
) -> ExplorerVerdict:
    """Return the verdict of an exploration; only what the checker confirms is a violation.

    Findings are kept when Ctrl-C comes or the time is over: the checker is still asked about at
    least one of them, but the counterexample is explained less well.
    """
    conclusion = _Conclusion(schedule, explored, deadline or Deadline())
    try:
        conclusion.ask_the_checker()
        conclusion.look_for_hazards()
        conclusion.tell()
    except KeyboardInterrupt:
        conclusion.is_interrupted = True
    return conclusion.verdict()


def _rank(item: tuple[FindingKey, Path]) -> tuple[int, bool, FindingKey]:
    """Sort findings: shortest first; of equally short ones, the post after the free first."""
    key, path = item
    return len(path), not key[2], key


@dataclass(frozen=True, slots=True)
class _Confirmed:
    """A finding that the checker confirms on its schedule's history."""

    key: FindingKey
    path: Path
    played: Played
    violation: Violation


class _Conclusion:
    """What is known of an exploration so far; each part may be the last one."""

    def __init__(self, schedule: Schedule, explored: Explored, deadline: Deadline) -> None:
        self.is_interrupted = explored.is_interrupted
        self._schedule = schedule
        self._model = schedule.model()
        self._explored = explored
        spare = deadline.left()
        self._deadline = (
            Deadline(min(spare, INTERRUPTED_SECONDS_MAX)) if self.is_interrupted else deadline
        )
        self._confirmed: dict[FindingKey, _Confirmed] = {}
        self._lengths: dict[FindingKey, int] = {}
        self._denied: dict[FindingKey, str] = {}
        self._unasked = len(explored.paths)
        self._doubts: list[str] = []
        self._hazards: dict[Hazard, None] = {}
        self._counterexample: Counterexample | None = None

    # --- the checker's word ----------------------------------------------------------------

    def ask_the_checker(self) -> None:
        """Have every finding judged, shortest first; the first one whatever the time."""
        for key, path in sorted(self._explored.paths.items(), key=_rank):
            if self._deadline.is_over and self._unasked < len(self._explored.paths):
                break
            self._judge(key, path)
            self._unasked -= 1
        for key, path in sorted(self._explored.doubts.items()):
            self._doubts.append(self._doubt(key, path))

    def _play(self, path: Path) -> Played:
        return play(along(self._schedule, path), self._model)

    def _doubt(self, key: FindingKey, path: Path) -> str:
        """Return why safety is not proven: what the explorer saw, what the checker says to it."""
        said = self._play(path).judgement.notes
        why = said[0] if said else "the checker sees nothing wrong"
        return f"{_named(key)} after {len(path)} steps: {why}"

    def _judge(self, key: FindingKey, path: Path) -> _Confirmed | None:
        played = self._play(path)
        violation = played.violation(key)
        if violation is None:
            notes = played.judgement.notes
            why = notes[0] if notes else "the checker sees no such violation in its history"
            self._denied[key] = f"{_named(key)} after {len(path)} steps is not confirmed: {why}"
            return None
        self._hazards.update(dict.fromkeys(played.judgement.hazards))
        found = _Confirmed(key, path, played, violation)
        self._confirmed.setdefault(key, found)
        self._lengths[key] = min(len(path), self._lengths.get(key, len(path)))
        return found

    def look_for_hazards(self) -> None:
        """Have the checker look at a run in order, and at each schedule that showed a hazard."""
        paths = [(), *(path for _, path in sorted(self._explored.hazards.items(), key=_rank))]
        for path in paths:
            if self._deadline.is_over:
                break
            self._hazards.update(dict.fromkeys(self._play(path).judgement.hazards))

    # --- the counterexample ----------------------------------------------------------------

    def tell(self) -> None:
        """Tell the best counterexample: one that a broker can do, and the shortest such."""
        if not self._confirmed:
            return
        known = self._by_rank()
        possible = [each for each in known if each.played.overtaking is None]
        best = next(iter(possible), known[0])
        is_all = self._explored.complete and not self._explored.is_reduced
        self._show(best, is_all and best is known[0], is_told=False)
        shorter = self._shortest()
        if shorter is not None and (shorter.played.overtaking is None or not possible):
            best = shorter
            self._show(best, is_shortest=True, is_told=False)
        assert self._counterexample is not None, "just shown"
        self._show(best, self._counterexample.is_shortest, is_told=True)

    def _by_rank(self) -> list[_Confirmed]:
        found = self._confirmed.values()
        return sorted(found, key=lambda each: _rank((each.key, each.path)))

    def _shortest(self) -> _Confirmed | None:
        """Search once more without the reduction, which may have taken a longer way."""
        left = min(SHORTEST_SECONDS_MAX, self._deadline.left())
        if not self._explored.is_reduced or self.is_interrupted or left <= 0:
            return None
        bounds = Bounds(SHORTEST_STATES_MAX, left, reduce=False, first_only=True)
        again = breadth_first.explore(self._schedule.model(), bounds, lambda *_: None)
        self.is_interrupted = again.is_interrupted
        first: _Confirmed | None = None
        for key, path in sorted(again.paths.items(), key=_rank):
            first = first or self._judge(key, path)
            if first is not None and first.key != key and not self._deadline.is_over:
                self._judge(key, path)
        return first

    def _show(self, found: _Confirmed, is_shortest: bool, *, is_told: bool) -> None:
        schedule = along(self._schedule, found.path)
        told = untold(schedule)
        if is_told and not self.is_interrupted:
            told = tell(schedule, found.key, self._deadline)
        overtaking = found.played.overtaking
        self._counterexample = Counterexample(
            schedule,
            told,
            found.key,
            self._kinds(),
            is_shortest,
            _as_told(found),
            overtaking.text if overtaking else "",
        )

    def _kinds(self) -> dict[str, int]:
        """Return the shortest lengths of uses after free by when the request was posted."""
        kinds: dict[str, int] = {}
        for (invariant, _, is_late), length in sorted(self._lengths.items(), key=lambda x: x[1]):
            if invariant == Invariant.USE_AFTER_FREE:
                name = "posted-after-free" if is_late else "posted-before-free"
                kinds.setdefault(name, length)
        return kinds

    # --- the whole -------------------------------------------------------------------------

    def verdict(self) -> ExplorerVerdict:
        """Return what is known, as a verdict."""
        explored = self._explored
        gaps = unseen(self._schedule, explored) if explored.complete else Unseen()
        violations: dict[tuple[str, int], Violation] = {}
        for found in self._confirmed.values():
            violations.setdefault(found.key[:2], _as_told(found))
        denied = tuple(
            text for key, text in sorted(self._denied.items()) if key[:2] not in violations
        )
        notes = [*self._doubts, *gaps.out_of_reach]
        if self._unasked:
            why = CTRL_C if self.is_interrupted else "the time was over"
            notes.append(f"{self._unasked} findings more were not put to the checker: {why}")
        is_safe = explored.complete and not self.is_interrupted and not explored.paths
        is_safe = is_safe and not gaps.missing and not self._doubts
        name = "violated" if violations else "safe" if is_safe else "inconclusive"
        return ExplorerVerdict(
            self._schedule,
            explored,
            name,
            gaps.missing,
            tuple(violations.values()),
            self._counterexample,
            denied,
            tuple(notes),
            tuple(sorted(self._hazards, key=lambda each: (each.hazard, each.vcpu or 0))),
            self.is_interrupted,
        )


def _as_told(found: _Confirmed) -> Violation:
    """Return a violation that says where no broker can bring it about."""
    overtaking = found.played.overtaking
    if overtaking is None:
        return found.violation
    return replace(found.violation, explain=f"{found.violation.explain} But {overtaking.text}.")


def _named(key: FindingKey) -> str:
    return f"{key[0]} of vCPU {key[1]}" if key[1] >= 0 else key[0]

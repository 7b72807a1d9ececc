"""What an exploration amounts to: verdict, violations with their reasons, one counterexample."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from teardown_lab.checker.findings import Violation
from teardown_lab.explorer import breadth_first
from teardown_lab.explorer.schedule import Schedule, turns
from teardown_lab.explorer.stage import Stage
from teardown_lab.explorer.strategy import Bounds, Explored, FindingKey, Path
from teardown_lab.explorer.telling import Told, tell, violation_of
from vm_protocol.ordering import WORKER_STEPS, ForEachVcpu, Ordering
from vm_protocol.scenario import Scenario, root_contexts

SHORTEST_STATES_MAX: Final = 400_000
SHORTEST_SECONDS_MAX: Final = 20.0
"""How much a second, unreduced search for the shortest counterexample may cost."""


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A schedule, told; `kinds` has the length of the shortest one of each kind of post."""

    schedule: Schedule
    told: Told
    key: FindingKey
    kinds: dict[str, int]
    is_shortest: bool
    violation: Violation | None

    def as_json(self) -> dict[str, Any]:
        """Return it as a part of the JSON object."""
        return {
            "token": self.schedule.token(),
            "steps": len(self.schedule.path),
            "is_shortest": self.is_shortest,
            "invariant": self.key[0],
            "vcpu": None if self.key[1] < 0 else self.key[1],
            "explain": self.violation.explain if self.violation else "",
            "told": self.told.text,
            "deviations": self.told.deviations,
            "racing": list(self.told.racing),
            "race": self.told.race,
            "parts_at": self.told.parts_at,
            "kinds": self.kinds,
            "turns": [asdict(turn) for turn in turns(self.schedule.model(), self.schedule.path)],
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole answer; `missing` are required witnesses that nobody has seen.

    `disagreements` are findings that the checker does not confirm, `notes` reasons for doubt.
    """

    schedule: Schedule
    explored: Explored
    verdict: str
    missing: tuple[str, ...] = ()
    violations: tuple[Violation, ...] = ()
    counterexample: Counterexample | None = None
    disagreements: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self, seconds: float) -> dict[str, Any]:
        """Return the JSON object of the contract (design, section 8)."""
        return {
            "schema": 1,
            "ordering": self.schedule.ordering.name,
            "scenario": self.schedule.scenario.model_dump(mode="json"),
            "faults": self.schedule.faults.as_dict(),
            "verdict": self.verdict,
            "complete": self.explored.complete,
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
        vcpus = f"{self.schedule.scenario.vcpus} vCPUs"
        if self.explored.complete:
            return f"complete: {vcpus}, {told}, {states}"
        return f"{self.explored.stopped_by}: {vcpus}, {told}, {states}"


def conclude(schedule: Schedule, explored: Explored) -> Verdict:
    """Return the verdict of an exploration; the checker confirms every finding on its history."""
    missing = () if not explored.complete else _missing(schedule, explored)
    doubts = tuple(_doubt(schedule, key, path) for key, path in sorted(explored.doubts.items()))
    if not explored.paths:
        is_safe = explored.complete and not missing and not doubts
        verdict = "safe" if is_safe else "inconclusive"
        return Verdict(schedule, explored, verdict, missing, notes=doubts)
    violations: dict[tuple[str, int], Violation] = {}
    disagreements: list[str] = []
    for key, path in sorted(explored.paths.items(), key=_rank):
        stage = _played(_along(schedule, path))
        found = violation_of(stage, key)
        if found is not None:
            violations.setdefault(key[:2], found)
        elif key[:2] not in violations:
            why = "".join(f": {note}" for note in stage.judgement().notes[:1])
            disagreements.append(f"the checker does not confirm {key[0]} of vCPU {key[1]}{why}")
    counterexample = _counterexample(schedule, explored)
    return Verdict(
        schedule,
        explored,
        "violated",
        missing,
        tuple(violations.values()),
        counterexample,
        tuple(disagreements),
        doubts,
    )


def _rank(item: tuple[FindingKey, Path]) -> tuple[int, bool, FindingKey]:
    """Sort findings: shortest first; of equally short ones, the post after the free first."""
    key, path = item
    return len(path), not key[2], key


def _along(schedule: Schedule, path: Path) -> Schedule:
    return Schedule(schedule.ordering, schedule.scenario, schedule.faults, path)


def _doubt(schedule: Schedule, key: FindingKey, path: Path) -> str:
    """Return why safety is not proven: what the explorer saw, and what the checker says to it."""
    said = _played(_along(schedule, path)).judgement().notes
    why = said[0] if said else "the checker sees nothing wrong"
    about = f" of vCPU {key[1]}" if key[1] >= 0 else ""
    return f"{key[0]}{about} after {len(path)} steps: {why}"


def _played(schedule: Schedule) -> Stage:
    stage = Stage(schedule)
    for turn in turns(schedule.model(), schedule.path):
        stage.take(turn)
    stage.finish()
    return stage


def _confirm(schedule: Schedule, key: FindingKey) -> Violation | None:
    """Return the checker's violation of this kind in the schedule's history."""
    return violation_of(_played(schedule), key)


def _counterexample(schedule: Schedule, explored: Explored) -> Counterexample:
    paths, is_shortest = explored.paths, not explored.is_reduced and explored.complete
    if explored.is_reduced and not explored.is_interrupted:
        bounds = Bounds(SHORTEST_STATES_MAX, SHORTEST_SECONDS_MAX, reduce=False, first_only=True)
        again = breadth_first.explore(schedule.model(), bounds, lambda *_: None)
        if again.paths:
            paths, is_shortest = again.paths, True
    key, path = min(paths.items(), key=_rank)
    found = _along(schedule, path)
    kinds: dict[str, int] = {}
    if key[0] == "use-after-free":
        for (invariant, _, is_late), way in sorted(explored.paths.items(), key=_rank):
            if invariant == "use-after-free":
                kinds.setdefault("posted-after-free" if is_late else "posted-before-free", len(way))
        for (invariant, _, is_late), way in paths.items():
            name = "posted-after-free" if is_late else "posted-before-free"
            if invariant == "use-after-free":
                kinds[name] = min(kinds.get(name, len(way)), len(way))
    return Counterexample(found, tell(found, key), key, kinds, is_shortest, _confirm(found, key))


def _missing(schedule: Schedule, explored: Explored) -> tuple[str, ...]:
    """Return the witnesses that ordering, scenario and faults imply, and nobody has seen."""
    required = set(schedule.faults.as_dict())
    if _predicts_flush(schedule.ordering, schedule.scenario):
        required |= {"unload-flushed", "flush-reached-live-vcpu"}
    if _predicts_overlap(schedule.ordering, schedule.scenario):
        required.add("destroys-overlapped")
    return tuple(sorted(required - explored.witnessed))


def _predicts_flush(ordering: Ordering, scenario: Scenario) -> bool:
    """Tell whether some unload must flush somebody: zap-all first, then unload, nobody hidden."""
    if ordering.array == "stop-at-hole":
        return False
    kinds = {
        mmu for v in range(scenario.vcpus) for each in root_contexts(scenario, v) for _, mmu in each
    }
    if "shadow" not in kinds:
        return False
    zapped = False
    for step in ordering.steps:
        if step == "zap_all_roots":
            zapped = True
        elif isinstance(step, ForEachVcpu):
            steps = step.for_each_vcpu.steps
            stops = ("erase_vcpu", "zap_all_until_empty", "free_vcpu")
            before = [index for index, name in enumerate(steps) if name in stops]
            unload = steps.index("unload_mmu") if "unload_mmu" in steps else len(steps)
            if unload < min([*before, len(steps)]):
                return zapped
            if before:
                return False
        elif step == "uninit_mmu":
            return False
    return False


def _predicts_overlap(ordering: Ordering, scenario: Scenario) -> bool:
    """Tell whether two vCPUs' commands must be able to run at once."""
    for step in ordering.steps:
        is_parallel = isinstance(step, ForEachVcpu) and step.for_each_vcpu.parallel != 1
        if isinstance(step, ForEachVcpu) and is_parallel:
            has_command = any(name in WORKER_STEPS for name in step.for_each_vcpu.steps)
            if has_command:
                return scenario.vcpus > 1
    return False

"""One schedule forced on the real services: a conductor, a stack behind gates, judgements."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teardown_lab.checker.findings import Violation
from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Finished, LabOptions, RunOptions, open_lab
from teardown_lab.explorer.findings import DOUBTS, HAZARDS
from teardown_lab.explorer.follow import follow
from teardown_lab.explorer.playing import Played, play
from teardown_lab.explorer.schedule import Schedule, Turn, turns
from teardown_lab.replay.conductor import (
    TURN_SECONDS_MAX,
    Conductor,
    ReplayFailed,
    check_turns,
    conduct,
)
from vm_protocol.message_ids import name_in_vm

TURNS_OF_TIMEOUT: Final = 3
"""A turn may take this part of the time that a whole run may take."""

Kind = tuple[str, int | None, str]
"""What is the same violation in two runs: invariant, vCPU, message id without the VM's name."""


_KEYS: Final = ("invariant", "vcpu", "message")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a schedule ends in.

    `expected` are the violations that the checker finds in its history, `claimed` what the explorer
    saw on its way; `impossible` says why no broker does this, "" where one may.
    """

    turns: tuple[Turn, ...]
    expected: tuple[Kind, ...]
    claimed: tuple[str, ...] = ()
    impossible: str = ""


@dataclass(frozen=True, slots=True)
class Reached:
    """What a run came to of a goal; `missed` are the expected violations that it did not."""

    goal: Goal
    missed: tuple[Kind, ...]

    @property
    def is_confirmed(self) -> bool:
        """Tell whether there was a violation to come to, and every one of them is there."""
        return bool(self.goal.expected) and not self.missed

    @property
    def text(self) -> str:
        """Return it in words."""
        if self.is_confirmed:
            return "the violation that was found"
        if self.missed:
            return f"not reached: {', '.join(map(_called, self.missed))}"
        if self.goal.claimed:
            return (
                f"not reached: {', '.join(self.goal.claimed)}, which the explorer saw and the "
                f"checker does not find in this schedule's history"
            )
        return "nothing to reach: this schedule ends in no violation"

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON object of a run gets in addition."""
        return {
            "turns": len(self.goal.turns),
            "expected": [dict(zip(_KEYS, kind, strict=True)) for kind in self.goal.expected],
            "missed": [dict(zip(_KEYS, kind, strict=True)) for kind in self.missed],
            "claimed": list(self.goal.claimed),
            "reached": self.is_confirmed,
            "impossible": self.goal.impossible,
        }


@dataclass(frozen=True, slots=True)
class Replayed:
    """A forced run, and what it came to."""

    finished: Finished
    reached: Reached


def kind_of(violation: Violation) -> Kind:
    """Return what makes a violation the same one in another run."""
    message = name_in_vm(violation.message_id)
    return str(violation.invariant), violation.vcpu, message


def _called(kind: Kind) -> str:
    about = "" if kind[1] is None else f" of vCPU {kind[1]}"
    return f"{kind[0]}{about}" + (f" by {kind[2]}" if kind[2] else "")


def goal_of(found: Schedule) -> Goal:
    """Return what a schedule ends in, played without any broker and not beyond its last turn.

    A violation that only shows at the end of the teardown, such as a step that never ends, is in
    no history that stops earlier: the schedule is then played to the end.
    """
    model = found.model()
    _, seen = follow(model, found.path)
    claimed = [each for each in seen if each.invariant not in DOUBTS | HAZARDS]
    played = play(found, model, to_the_end=False)
    if claimed and not played.judgement.violations:
        played = play(found, model)
    return Goal(
        turns(model, found.path),
        tuple(kind_of(each) for each in played.judgement.violations),
        tuple(dict.fromkeys(_claim(*each.kind) for each in claimed)),
        played.overtaking.text if played.overtaking else "",
    )


def _claim(invariant: str, vcpu: int) -> str:
    return _called((invariant, vcpu if vcpu >= 0 else None, ""))


def reached_by(judgement: Judgement, goal: Goal) -> Reached:
    """Return what a judged run came to of a goal."""
    kinds = {kind_of(each) for each in judgement.violations}
    return Reached(goal, tuple(kind for kind in goal.expected if kind not in kinds))


def on_stage(found: Schedule) -> Played:
    """Return the schedule played to the end of its teardown, without any broker."""
    return play(found)


def force(
    found: Schedule, broker: str, timeout_s: float, times: int = 1, history: Path | None = None
) -> Iterator[Replayed]:
    """Run under a conductor, once or often, on one lab with a worker for each vCPU.

    Yields each run as it ends. With `history` each run's file is that one, the last remains.

    Raises:
        ReplayFailed: A turn did not come to pass; names it, and what was held then.
        BrokerUnavailable, StackFailed, SessionLost: The services or the broker broke down.
    """
    goal = goal_of(found)
    steps = goal.turns
    check_turns(steps)
    vcpus = found.scenario.vcpus
    with conduct(min(TURN_SECONDS_MAX, timeout_s / TURNS_OF_TIMEOUT)) as conductor:
        gate = f"127.0.0.1:{conductor.port}"
        options = LabOptions(broker=broker, workers=vcpus, vcpus=vcpus, gate=gate)
        with open_lab(options, lambda _: None) as lab:
            for _ in range(times):
                conductor.arm(steps)
                once = RunOptions(timeout_s=timeout_s, history=history)
                finished = lab.run(found.ordering, found.scenario, vcpus, once)
                _check(conductor, len(steps))
                yield Replayed(finished, reached_by(finished.judgement, goal))


def _check(conductor: Conductor, turn_count: int) -> None:
    if conductor.failure is not None:
        raise ReplayFailed(f"the schedule could not be forced: {conductor.failure}")
    if conductor.played_count < turn_count:
        raise ReplayFailed(
            f"the schedule could not be forced: the run ended after "
            f"{conductor.played_count} of {turn_count} turns"
        )

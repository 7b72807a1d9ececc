"""One schedule forced on the real services: a conductor, a stack behind gates, judgements."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teardown_lab.checker.findings import Violation
from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Finished, LabOptions, RunOptions, open_lab
from teardown_lab.explorer.schedule import Schedule, Turn, turns
from teardown_lab.explorer.stage import Stage
from teardown_lab.replay.conductor import (
    TURN_SECONDS_MAX,
    Conductor,
    ReplayFailed,
    check_turns,
    conduct,
)

TURNS_OF_TIMEOUT: Final = 3
"""A turn may take this part of the time that a whole run may take."""

Kind = tuple[str, int | None, str]
"""What is the same violation in two runs: invariant, vCPU, message id without the VM's name."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A forced run; `missed` are violations of the schedule that it did not come to."""

    finished: Finished
    turn_count: int
    expected: tuple[Kind, ...]
    missed: tuple[Kind, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON object of a run gets in addition."""
        return {
            "turns": self.turn_count,
            "expected": [dict(zip(_KEYS, kind, strict=True)) for kind in self.expected],
            "reached": not self.missed,
        }


_KEYS: Final = ("invariant", "vcpu", "message")


def kind_of(violation: Violation) -> Kind:
    """Return what makes a violation the same one in another run."""
    message = (violation.message_id or "").partition("/")[2]
    return str(violation.invariant), violation.vcpu, message


def on_stage(found: Schedule, *, to_the_end: bool) -> Judgement:
    """Return the checker's judgement of the schedule played without any broker.

    `to_the_end` lets the teardown end by itself after the last turn.
    """
    stage = Stage(found)
    for turn in turns(found.model(), found.path):
        stage.take(turn)
    if to_the_end:
        stage.finish()
    return stage.judgement()


def force(
    found: Schedule, broker: str, timeout_s: float, times: int = 1, history: Path | None = None
) -> Iterator[Replayed]:
    """Run under a conductor, once or often, on one lab with a worker for each vCPU.

    Yields each run as it ends. With `history` each run's file is that one, the last remains.

    Raises:
        ReplayFailed: A turn did not come to pass; names it, and what was held then.
        BrokerUnavailable, StackFailed, SessionLost: The services or the broker broke down.
    """
    steps: tuple[Turn, ...] = turns(found.model(), found.path)
    check_turns(steps)
    vcpus = found.scenario.vcpus
    expected = tuple(kind_of(each) for each in on_stage(found, to_the_end=False).violations)
    with conduct(min(TURN_SECONDS_MAX, timeout_s / TURNS_OF_TIMEOUT)) as conductor:
        gate = f"127.0.0.1:{conductor.port}"
        options = LabOptions(broker=broker, workers=vcpus, vcpus=vcpus, gate=gate)
        with open_lab(options, lambda _: None) as lab:
            for _ in range(times):
                conductor.arm(steps)
                once = RunOptions(timeout_s=timeout_s, history=history)
                finished = lab.run(found.ordering, found.scenario, vcpus, once)
                _check(conductor, len(steps))
                kinds = {kind_of(each) for each in finished.judgement.violations}
                missed = tuple(kind for kind in expected if kind not in kinds)
                yield Replayed(finished, len(steps), expected, missed)


def _check(conductor: Conductor, turn_count: int) -> None:
    if conductor.failure is not None:
        raise ReplayFailed(f"the schedule could not be forced: {conductor.failure}")
    if conductor.played_count < turn_count:
        raise ReplayFailed(
            f"the schedule could not be forced: the run ended after "
            f"{conductor.played_count} of {turn_count} turns"
        )

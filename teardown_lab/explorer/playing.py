"""A schedule played on the stage to its end, with what the checker says to its history."""

from dataclasses import dataclass, replace

from teardown_lab.checker.findings import Violation
from teardown_lab.checker.judgement import Judgement
from teardown_lab.explorer.holds import Holds, Overtaking
from teardown_lab.explorer.model import Model
from teardown_lab.explorer.schedule import Schedule, turns
from teardown_lab.explorer.stage import Stage
from teardown_lab.explorer.strategy import FindingKey, Path
from teardown_lab.explorer.telling import violation_in


@dataclass(frozen=True, slots=True)
class Played:
    """A stage at its end, its judgement, and the overtaking that no broker does, if any."""

    stage: Stage
    judgement: Judgement
    overtaking: Overtaking | None

    def violation(self, key: FindingKey) -> Violation | None:
        """Return the checker's violation of this kind."""
        return violation_in(self.stage, self.judgement, key)


def along(schedule: Schedule, path: Path) -> Schedule:
    """Return a schedule with another path."""
    return replace(schedule, path=path)


def play(schedule: Schedule, model: Model | None = None, *, to_the_end: bool = True) -> Played:
    """Play a schedule; what comes after its last turn happens first in, first out.

    `model` is the schedule's, where there is one that already knows many steps.
    """
    stage = Stage(schedule)
    holds = Holds(stage)
    for turn in turns(model or schedule.model(), schedule.path):
        holds.before(turn)
        stage.take(turn)
    if to_the_end:
        stage.finish()
    return Played(stage, stage.judgement(), holds.broken)

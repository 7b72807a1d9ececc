"""`teardown replay`: a schedule that was found, forced on the real services."""

import sys
from pathlib import Path
from typing import Any

import click

from teardown_lab.checker.judgement import Judgement
from teardown_lab.checker.verdict import exit_code
from teardown_lab.cli.exits import exit_codes, fail
from teardown_lab.cli.output import print_json
from teardown_lab.cli.parameters import Duration, broker_option
from teardown_lab.exit_codes import ExitCode
from teardown_lab.explorer.schedule import (
    SCHEDULE_CHARACTERS_MAX,
    TOKEN_PREFIX,
    Schedule,
    ScheduleError,
    read_schedule,
)
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.choice import provide_broker
from teardown_lab.replay.forcing import Replayed, force, goal_of, on_stage, reached_by
from teardown_lab.report.text import describe


@click.command()
@click.argument("schedule")
@broker_option
@click.option("--times", type=click.IntRange(1, 1000), default=1, help="how often, in a row")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
@click.option("--timeout", type=Duration(1), default=60.0, show_default=True)
def replay(schedule: str, broker: str, times: int, as_json: bool, timeout: float) -> None:
    """Force SCHEDULE, a file of `explore --save` or a token, on the services, and judge the run.

    Exit codes are those of `teardown run`, but never 0: a safe run has not confirmed what was
    found, and ends with 3, as do several runs that end differently. 4 when the schedule cannot be
    forced.
    """
    with exit_codes():
        found = _read(schedule)
        with RunFolder() as run, provide_broker(broker, run) as provided:
            click.echo(provided.line, err=True)
            if provided.url is None:
                codes = [_simulate(found, as_json)]
            else:
                codes = _repeat(found, provided.url, times, as_json, timeout)
    sys.exit(codes[0] if len(set(codes)) == 1 else ExitCode.INCONCLUSIVE)


def _read(schedule: str) -> Schedule:
    """Return the schedule of a token or of a file; end with a usage error if it is neither."""
    try:
        if schedule.startswith(TOKEN_PREFIX):
            return read_schedule(schedule)
        path = Path(schedule)
        with path.open(encoding="utf-8") as file:
            return read_schedule(file.read(SCHEDULE_CHARACTERS_MAX + 1))
    except (OSError, ValueError) as error:
        if isinstance(error, ScheduleError):
            fail(ExitCode.USAGE, str(error))
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        shown = schedule if len(schedule) <= 80 else f"{schedule[:80]}..."
        fail(
            ExitCode.USAGE,
            f"{shown!r} is no token ({TOKEN_PREFIX}...), and no file to read: {reason}",
        )


def _repeat(found: Schedule, url: str, times: int, as_json: bool, timeout: float) -> list[int]:
    """Force the schedule several times on one lab; report the last run."""
    codes: list[int] = []
    for number, replayed in enumerate(force(found, url, timeout, times), 1):
        reached, verdict = replayed.reached, replayed.finished.judgement.verdict
        codes.append(_code(replayed.finished.judgement))
        if number == 1 and reached.goal.impossible:
            click.echo(reached.goal.impossible, err=True)
        count = len(reached.goal.turns)
        click.echo(f"{number}/{times}: forced {count} turns: {verdict}, {reached.text}", err=True)
    _report(replayed, as_json)
    return codes


def _code(judgement: Judgement) -> int:
    """Return the exit code of a judged replay; a safe one has confirmed nothing."""
    code = exit_code(judgement)
    return ExitCode.INCONCLUSIVE if code == ExitCode.SAFE else code


def _simulate(found: Schedule, as_json: bool) -> int:
    judgement = on_stage(found).judgement
    reached = reached_by(judgement, goal_of(found))
    if as_json:
        result: dict[str, Any] = dict(judgement.to_json("", source="simulated"))
        print_json({**result, "replay": reached.as_json()})
    else:
        for each in judgement.violations:
            click.echo(f"{each.invariant}: {each.explain}")
        if reached.goal.impossible:
            click.echo(reached.goal.impossible)
        click.echo(f"{judgement.verdict}, {reached.text}")
    return _code(judgement)


def _report(replayed: Replayed, as_json: bool) -> None:
    finished = replayed.finished
    if as_json:
        result: dict[str, Any] = dict(finished.judgement.to_json(str(finished.history)))
        print_json({**result, "replay": replayed.reached.as_json()})
    else:
        click.echo(describe(finished.judgement, finished.facts))

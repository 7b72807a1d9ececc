"""`teardown replay`: a schedule that was found, forced on the real services."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from teardown_lab.checker.history import load_history
from teardown_lab.checker.verdict import exit_code
from teardown_lab.cli.exits import USAGE, exit_codes, fail
from teardown_lab.experiment.lab import Finished, LabOptions, RunOptions, open_lab
from teardown_lab.explorer.schedule import (
    TOKEN_PREFIX,
    Schedule,
    ScheduleError,
    Turn,
    read_schedule,
    turns,
)
from teardown_lab.explorer.stage import Stage
from teardown_lab.replay.conductor import ReplayFailed, conduct
from teardown_lab.report.text import describe


@click.command()
@click.argument("schedule")
@click.option("--broker", default="auto", show_default=True, help="auto, simulated, or a URL")
@click.option("--times", type=click.IntRange(1, 1000), default=1, help="how often, in a row")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
@click.option("--timeout", type=click.FloatRange(1), default=60.0, show_default=True)
def replay(schedule: str, broker: str, times: int, as_json: bool, timeout: float) -> None:
    """Force SCHEDULE, a file of `explore --save` or a token, on the services, and judge the run.

    Exit codes are those of `teardown run`; 4 when the schedule cannot be forced.
    """
    with exit_codes():
        try:
            found = read_schedule(_text(schedule))
        except ScheduleError as error:
            fail(USAGE, str(error))
        steps = turns(found.model(), found.path)
        codes = []
        for number in range(times):
            if broker == "simulated":
                codes.append(_simulate(found, steps, as_json))
                continue
            finished = _force(found, steps, broker, timeout)
            codes.append(exit_code(finished.judgement))
            last = number + 1 == times
            if not last:
                click.echo(f"{number + 1}/{times}: {finished.judgement.verdict}", err=True)
                continue
            _report(finished, as_json)
    sys.exit(max(codes) if len(set(codes)) == 1 else 3)


def _text(schedule: str) -> str:
    path = Path(schedule)
    if schedule.startswith(TOKEN_PREFIX) or not path.is_file():
        return schedule
    return path.read_text(encoding="utf-8")


def _force(found: Schedule, steps: tuple[Turn, ...], broker: str, timeout: float) -> Finished:
    """Run once under a conductor, one worker for each vCPU as in the exploration."""
    vcpus = found.scenario.vcpus
    with conduct(steps) as conductor:
        options = LabOptions(
            broker=broker,
            workers=vcpus,
            vcpus=vcpus,
            gate=f"127.0.0.1:{conductor.port}",
        )
        with open_lab(options, lambda line: click.echo(line, err=True)) as lab:
            once = RunOptions(timeout_s=timeout)
            finished = lab.run(found.ordering, found.scenario, vcpus, once)
        if conductor.failure is not None:
            raise ReplayFailed(f"the schedule could not be forced: {conductor.failure}")
        click.echo(f"forced {conductor.played_count} turns of {len(steps)}", err=True)
    return finished


def _simulate(found: Schedule, steps: tuple[Turn, ...], as_json: bool) -> int:
    stage = Stage(found)
    for turn in steps:
        stage.take(turn)
    stage.finish()
    judgement = stage.judgement()
    if as_json:
        click.echo(json.dumps(judgement.to_json("", source="simulated")))
    else:
        for each in judgement.violations:
            click.echo(f"{each.invariant}: {each.explain}")
        click.echo(f"{judgement.verdict}")
    return exit_code(judgement)


def _report(finished: Finished, as_json: bool) -> None:
    judgement, path = finished.judgement, finished.history
    if as_json:
        result: dict[str, Any] = dict(judgement.to_json(str(path)))
        click.echo(json.dumps(result))
    else:
        click.echo(describe(judgement, load_history(path), path))

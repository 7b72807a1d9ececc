"""`teardown run`: one teardown, judged."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from teardown_lab.checker.verdict import exit_code
from teardown_lab.cli.choices import Shape, check_work, find_ordering, make_scenario
from teardown_lab.cli.exits import exit_codes, warn
from teardown_lab.cli.output import print_json
from teardown_lab.cli.parameters import Duration, broker_option
from teardown_lab.exit_codes import ExitCode
from teardown_lab.experiment.lab import Finished, LabOptions, RunOptions, open_lab
from teardown_lab.report.junit import junit_xml
from teardown_lab.report.text import describe


@dataclass(frozen=True, slots=True)
class RunFlags:
    """What the command line says beside the ordering; each is an option of the same name."""

    vcpus: int | None
    mmu: str | None
    roots: str | None
    scenario: str | None
    workers: int
    managers: int
    broker: str
    attach: bool
    seed: int | None
    as_json: bool
    history: str | None
    strict: bool
    timeout: float
    keep: bool
    junit: str | None
    verbose: bool


@click.command()
@click.argument("ordering")
@click.option("--vcpus", type=click.IntRange(1), help="number of vCPUs")
@click.option("--mmu", type=click.Choice(["shadow", "tdp"]), help="first MMU context")
@click.option("--roots", type=click.Choice(["distinct", "shared", "mixed"]), help="who shares")
@click.option("--scenario", type=click.Path(exists=True, dir_okay=False), help="a YAML file")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option(
    "--managers",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="one is active, the others stand by",
)
@broker_option
@click.option("--attach", is_flag=True, help="use running services: `docker compose up`")
@click.option("--seed", type=click.IntRange(0), help="the scenario's seed")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
@click.option("--history", type=click.Path(dir_okay=False), help="where the history goes")
@click.option("--strict", is_flag=True, help="hazards fail the run")
@click.option("--timeout", type=Duration(0.1), default=60.0, show_default=True)
@click.option("--keep", is_flag=True, help="leave the VM's queues on the broker")
@click.option("--junit", type=click.Path(dir_okay=False), help="write a JUnit file")
@click.option("--verbose", "-v", is_flag=True, help="all reports and chains; logs on stderr")
def run(ordering: str, **options: Any) -> None:
    """Destroy one VM in ORDERING (a name, or a YAML file) and judge it.

    Exit codes: 0 safe, 1 violated, 2 usage, 3 inconclusive, 4 broker or infrastructure failure.
    """
    flags = RunFlags(**options)
    with exit_codes():
        finished = _run(ordering, flags)
        written = _report(finished, flags)
        code = exit_code(finished.judgement, strict=flags.strict)
        if not written and code == ExitCode.SAFE:
            code = ExitCode.INFRASTRUCTURE
    sys.exit(code)


def _run(ordering: str, flags: RunFlags) -> Finished:
    entry = find_ordering(ordering)
    shape = Shape(flags.vcpus, flags.mmu, flags.roots, flags.seed)
    scenario = make_scenario(flags.scenario, shape)
    check_work(entry, ordering, scenario)
    workers = min(flags.workers, scenario.vcpus)
    options = LabOptions(
        broker=flags.broker,
        workers=workers,
        vcpus=scenario.vcpus,
        attach=flags.attach,
        log_level="info" if flags.verbose else "warning",
        managers=flags.managers,
    )
    history = Path(flags.history) if flags.history else None
    once = RunOptions(flags.timeout, history, flags.keep)
    forward = _say if flags.verbose else lambda _: None
    with open_lab(options, _say, forward) as lab:
        return lab.run(entry.ordering, scenario, workers, once)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _report(finished: Finished, flags: RunFlags) -> bool:
    """Print the judgement, and write the JUnit file; False if that cannot be written."""
    judgement = finished.judgement
    if flags.as_json:
        print_json(judgement.to_json(str(finished.history)))
    else:
        click.echo(describe(judgement, finished.facts, verbose=flags.verbose))
    if flags.junit:
        text = junit_xml(judgement, strict=flags.strict)
        try:
            Path(flags.junit).write_text(text, encoding="utf-8")
        except OSError as error:
            reason = error.strerror or str(error)
            warn(f"the JUnit file {flags.junit} cannot be written: {reason}")
            return False
    return True

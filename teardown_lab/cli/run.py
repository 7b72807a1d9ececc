"""`teardown run`: one teardown, judged."""

import sys
from pathlib import Path
from typing import Any

import click

from teardown_lab.checker.history import History, load_history
from teardown_lab.checker.verdict import exit_code
from teardown_lab.cli.choices import check_work, find_ordering, make_scenario
from teardown_lab.cli.exits import exit_codes, warn
from teardown_lab.cli.output import print_json
from teardown_lab.cli.parameters import Duration, broker_option
from teardown_lab.exit_codes import ExitCode
from teardown_lab.experiment.lab import Finished, LabOptions, RunOptions, open_lab
from teardown_lab.report.junit import junit_xml
from teardown_lab.report.kasan import accesses_of
from teardown_lab.report.text import describe


@click.command()
@click.argument("ordering")
@click.option("--vcpus", type=click.IntRange(1), help="number of vCPUs")
@click.option("--mmu", type=click.Choice(["shadow", "tdp"]), help="first MMU context")
@click.option("--roots", type=click.Choice(["distinct", "shared", "mixed"]), help="who shares")
@click.option("--scenario", type=click.Path(exists=True, dir_okay=False), help="a YAML file")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True)
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
def run(ordering: str, **flags: Any) -> None:
    """Destroy one VM in ORDERING (a name, or a YAML file) and judge it.

    Exit codes: 0 safe, 1 violated, 2 usage, 3 inconclusive, 4 broker or infrastructure failure.
    """
    with exit_codes():
        entry = find_ordering(ordering)
        shape = {name: flags[name] for name in ("vcpus", "mmu", "roots", "seed")}
        scenario = make_scenario(flags["scenario"], shape)
        check_work(entry, ordering, scenario)
        workers = min(flags["workers"], scenario.vcpus)
        options = LabOptions(
            broker=flags["broker"],
            workers=workers,
            vcpus=scenario.vcpus,
            attach=flags["attach"],
            log_level="info" if flags["verbose"] else "warning",
        )
        history = Path(flags["history"]) if flags["history"] else None
        once = RunOptions(flags["timeout"], history, flags["keep"])

        def forward(line: str) -> None:
            if flags["verbose"]:
                click.echo(line, err=True)

        with open_lab(options, lambda line: click.echo(line, err=True), forward) as lab:
            finished = lab.run(entry.ordering, scenario, workers, once)
        written = _report(finished, flags)
        code = exit_code(finished.judgement, strict=flags["strict"])
        if not written and code == ExitCode.SAFE:
            code = ExitCode.INFRASTRUCTURE
    sys.exit(code)


def _report(finished: Finished, flags: dict[str, Any]) -> bool:
    """Print the judgement, and write the JUnit file; False if that cannot be written."""
    judgement, path = finished.judgement, finished.history
    if flags["as_json"]:
        print_json(judgement.to_json(str(path)))
    else:
        history = load_history(path) if accesses_of(judgement) else History(())
        click.echo(describe(judgement, history, path, verbose=flags["verbose"]))
    if flags["junit"]:
        text = junit_xml(judgement, strict=flags["strict"])
        try:
            Path(flags["junit"]).write_text(text, encoding="utf-8")
        except OSError as error:
            reason = error.strerror or str(error)
            warn(f"the JUnit file {flags['junit']} cannot be written: {reason}")
            return False
    return True

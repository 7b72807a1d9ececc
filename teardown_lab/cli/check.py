"""`teardown check`: judge a history from its file alone."""

import sys
from pathlib import Path

import click

from teardown_lab.checker.history import load_history
from teardown_lab.checker.verdict import exit_code, judge
from teardown_lab.cli.exits import exit_codes
from teardown_lab.cli.output import print_json
from teardown_lab.report.text import describe


@click.command()
@click.argument("history", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--vm", help="which VM, when the history holds several")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
@click.option("--strict", is_flag=True, help="hazards fail the check")
def check(history: Path, vm: str | None, as_json: bool, strict: bool) -> None:
    """Judge HISTORY, a JSON Lines file, importing no service code.

    Exit codes are those of `teardown run`.
    """
    with exit_codes():
        loaded = load_history(history)
        judgement = judge(loaded, vm)
        if as_json:
            print_json(judgement.to_json(str(history), source="history"))
        else:
            click.echo(describe(judgement, loaded, history))
    sys.exit(exit_code(judgement, strict=strict))

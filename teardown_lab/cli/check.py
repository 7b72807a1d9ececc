"""`teardown check`: judge a history from its file alone."""

import sys
from pathlib import Path

import click

from teardown_lab.checker.gathering import gather
from teardown_lab.checker.history import History, HistoryError, load_history
from teardown_lab.checker.verdict import exit_code, judge_facts
from teardown_lab.cli.exits import exit_codes
from teardown_lab.cli.kinds import kind_of
from teardown_lab.cli.output import print_json
from teardown_lab.report.text import describe
from teardown_lab.results import HISTORY_NAMES


@click.command()
@click.argument("history", type=click.Path(exists=True, path_type=Path))
@click.option("--vm", help="which VM, when the history holds several")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
@click.option("--strict", is_flag=True, help="hazards fail the check")
@click.option("--verbose", "-v", is_flag=True, help="every report, with whole chains")
def check(history: Path, vm: str | None, as_json: bool, strict: bool, verbose: bool) -> None:
    """Judge HISTORY, a JSON Lines file or a run's folder, importing no service code.

    The file may be compressed by gzip, as those in results/ are.
    Exit codes are those of `teardown run`.
    """
    with exit_codes():
        history = _file_of(history)
        facts = gather(_load(history), vm)
        judgement = judge_facts(facts)
        if as_json:
            print_json(judgement.to_json(str(history), source="history"))
        else:
            click.echo(describe(judgement, facts, verbose=verbose))
    sys.exit(exit_code(judgement, strict=strict))


def _file_of(path: Path) -> Path:
    """Return the history of a run's folder, or the path itself."""
    if not path.is_dir():
        return path
    for name in HISTORY_NAMES:
        if (path / name).is_file():
            return path / name
    raise HistoryError(f"{path}: a folder without {HISTORY_NAMES[0]}; name a history's file")


def _load(path: Path) -> History:
    """Return a history; of a file that is none, the error says what it is, where that shows."""
    try:
        return load_history(path)
    except HistoryError as error:
        kind = kind_of(path)
        if not kind:
            raise
        raise HistoryError(f"{path} is no history: it is {kind}") from error

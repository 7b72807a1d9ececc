"""`teardown cleanup`: remove what killed runs left behind."""

import click

from teardown_lab.cli.exits import exit_codes, fail
from teardown_lab.exit_codes import ExitCode
from teardown_lab.leftovers.clean_up import find_leftovers, remove


@click.command()
def cleanup() -> None:
    """Remove processes, containers, queues and folders of runs that were killed.

    Runs that are alive are never touched. Exit code 4 when something could not be removed.
    """
    with exit_codes():
        found = find_leftovers()
        for leftover in found:
            click.echo(f"run {leftover.run_id}:")
            for line in remove(leftover):
                click.echo(f"  {line}")
        if not found:
            click.echo("nothing was left behind")
        tried = {leftover.run_id for leftover in found}
        kept = [each.run_id for each in find_leftovers() if each.run_id in tried]
    if kept:
        fail(
            ExitCode.INFRASTRUCTURE,
            f"not everything could be removed: {', '.join(kept)}; see above",
        )

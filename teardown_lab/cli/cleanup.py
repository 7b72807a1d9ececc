"""`teardown cleanup`: remove what killed runs left behind."""

import click

from teardown_lab import leftovers
from teardown_lab.cli.exits import exit_codes


@click.command()
def cleanup() -> None:
    """Remove processes, containers, queues and folders of runs that were killed.

    Runs that are alive are never touched.
    """
    with exit_codes():
        found = leftovers.find_leftovers()
        for leftover in found:
            click.echo(f"run {leftover.run_id}:")
            for line in leftovers.remove(leftover):
                click.echo(f"  {line}")
        if not found:
            click.echo("nothing was left behind")

"""`teardown orderings`: list, show, diff and validate."""

import sys

import click

from teardown_lab.cli.choices import find_ordering
from teardown_lab.cli.exits import exit_codes
from teardown_lab.cli.output import width
from teardown_lab.exit_codes import ExitCode
from teardown_lab.report import ordering_diff
from vm_manager.catalogue import OrderingError, catalogue_entry, catalogue_names
from vm_protocol.ordering import Ordering


@click.group()
def orderings() -> None:
    """Show, compare and check orderings."""


@orderings.command("list")
def list_orderings() -> None:
    """List the shipped orderings with their kernels."""
    entries = [catalogue_entry(name).ordering for name in catalogue_names()]
    rows = [
        (each.name, each.kernel.versions if each.kernel else "", each.title) for each in entries
    ]
    names, kernels, titles = (max(len(row[column]) for row in rows) for column in range(3))
    columns = width()
    if columns is not None and names + kernels + titles + 4 > columns:
        for name, kernel, title in rows:
            click.echo(f"{name:{names}}  {kernel}")
            click.echo(click.wrap_text(title, columns - 1, "    ", "    "))
        return
    for name, kernel, title in rows:
        click.echo(f"{name:{names}}  {kernel:{kernels}}  {title}")


def _versions(ordering: Ordering) -> str:
    return ordering.kernel.versions if ordering.kernel else ""


@orderings.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the YAML of an ordering."""
    with exit_codes():
        click.echo(find_ordering(name).text, nl=False)


@orderings.command()
@click.argument("old")
@click.argument("new")
def diff(old: str, new: str) -> None:
    """Show which lines move, come or go from OLD to NEW, and the commit that did it."""
    with exit_codes():
        catalogue = {name: catalogue_entry(name) for name in catalogue_names()}
        for line in ordering_diff.diff(find_ordering(old), find_ordering(new), catalogue):
            click.echo(line)


@orderings.command()
@click.argument("files", nargs=-1, required=True)
def validate(files: tuple[str, ...]) -> None:
    """Check ordering FILES; errors name file, line, column and the valid words."""
    failed = False
    with exit_codes():
        for file in files:
            try:
                entry = find_ordering(file)
            except OrderingError as error:
                click.echo(str(error), err=True)
                failed = True
            else:
                click.echo(f"{file}: {entry.ordering.name} is valid")
    sys.exit(ExitCode.USAGE if failed else ExitCode.SAFE)

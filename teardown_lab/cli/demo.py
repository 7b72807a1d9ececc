"""`teardown demo`: the catalogue on one broker, one line an ordering, and what each shows."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import click

from teardown_lab.checker.judgement import Judgement
from teardown_lab.cli.exits import INCONCLUSIVE, exit_codes
from teardown_lab.cli.output import clear_progress, show_progress
from teardown_lab.cli.parameters import broker_option
from teardown_lab.experiment.lab import Lab, LabOptions, RunOptions, open_lab
from vm_manager.catalogue import Entry, catalogue_entry, catalogue_names

_ROW = "{:31} {:26} {:9} {:26} {:>8} {:>8}"
_VCPUS = 4


@click.command()
@broker_option
@click.option("--workers", type=click.IntRange(1, _VCPUS), default=2, show_default=True)
@click.option("--explain", is_flag=True, help="say what each ordering shows")
def demo(broker: str, workers: int, explain: bool) -> None:
    """Run the whole catalogue and print one table; exit 0 when every verdict is expected.

    Each ordering is run with 4 vCPUs in the scenario that shows its point.
    """
    began = time.monotonic()
    entries = [catalogue_entry(name) for name in catalogue_names()]
    unexpected = 0
    with exit_codes():
        options = LabOptions(broker=broker, workers=workers, vcpus=_VCPUS)
        with open_lab(options, click.echo) as lab:
            click.echo(
                _ROW.format(
                    "ordering", "kernels", "verdict", "what surfaced", "requests", "seconds"
                )
            )
            for number, entry in enumerate(entries):
                with _progress(f"[{number + 1}/{len(entries)}] {entry.ordering.name} ..."):
                    judgement = _run(lab, entry, workers)
                unexpected += _print(entry, judgement, explain)
    seconds = time.monotonic() - began
    as_expected = len(entries) - unexpected
    click.echo(
        f"{len(entries)} orderings, {as_expected} with the verdict that the catalogue expects, "
        f"in {seconds:.0f} s"
    )
    sys.exit(INCONCLUSIVE if unexpected else 0)


def _run(lab: Lab, entry: Entry, workers: int) -> Judgement:
    scenario = entry.show.model_copy(update={"vcpus": _VCPUS})
    return lab.run(entry.ordering, scenario, workers, RunOptions()).judgement


def _print(entry: Entry, judgement: Judgement, explain: bool) -> int:
    """Print an entry's line; return 1 when its verdict is not one that is expected."""
    kernel = entry.ordering.kernel
    seconds = judgement.seconds.teardown
    row = _ROW.format(
        entry.ordering.name,
        kernel.versions.partition(" (")[0] if kernel else "",
        str(judgement.verdict),
        surfaced(judgement),
        judgement.counts.unload_flush_requests,
        f"{seconds:.3f}" if seconds is not None else "-",
    )
    expected = entry.expected(entry.show)
    is_expected = expected is not None and str(judgement.verdict) in expected.run
    if not is_expected:
        wanted = " or ".join(expected.run) if expected else "nothing"
        row += f"  UNEXPECTED: the catalogue says {wanted}"
    click.echo(row)
    if explain:
        race = " (racy: this run's verdict is one of two)" if entry.racy else ""
        click.echo(f"    {entry.explain}{race}")
        for note in judgement.notes:
            click.echo(f"    note: {note}")
    return 0 if is_expected else 1


def surfaced(judgement: Judgement) -> str:
    """Return what a run brought to light: dead letters by reason, else violations, else hazards."""
    found = Counter(letter.reason for letter in judgement.dead_letters)
    if not found:
        found = Counter(str(each.invariant) for each in judgement.violations)
    if not found:
        found = Counter(f"hazard {each.hazard}" for each in judgement.hazards)
        return ", ".join(sorted(found)) or "-"
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items()))


@contextmanager
def _progress(text: str) -> Iterator[None]:
    """Show what is going on, on a terminal, until the line of the result replaces it."""
    show_progress(text)
    try:
        yield
    finally:
        clear_progress()

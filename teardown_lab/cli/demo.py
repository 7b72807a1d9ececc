"""`teardown demo`: the catalogue on one broker, one line an ordering, and what each shows."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import click

from teardown_lab.checker.judgement import Judgement
from teardown_lab.cli.exits import exit_codes
from teardown_lab.cli.output import clear_progress, show_progress, width
from teardown_lab.cli.parameters import broker_option
from teardown_lab.exit_codes import ExitCode
from teardown_lab.experiment.lab import Lab, LabOptions, RunOptions, open_lab
from vm_manager.catalogue import Entry, catalogue_entry, catalogue_names

_WIDE = "{0:31} {1:26} {2:9} {3:26} {4:>8} {5:>8}"
_WIDE_COLUMNS = 113
"""What _WIDE takes; on a terminal that has fewer, lines are shorter and lack the kernels."""

_NARROW_COLUMNS = 79

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
            requests = "requests" if _is_wide() else "req."
            head = ("ordering", "kernels", "verdict", "what surfaced", requests, "seconds")
            click.echo(_row(*head))
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
    sys.exit(ExitCode.INCONCLUSIVE if unexpected else ExitCode.SAFE)


def _run(lab: Lab, entry: Entry, workers: int) -> Judgement:
    scenario = entry.show.model_copy(update={"vcpus": _VCPUS})
    return lab.run(entry.ordering, scenario, workers, RunOptions()).judgement


def _print(entry: Entry, judgement: Judgement, explain: bool) -> int:
    """Print an entry's line; return 1 when its verdict is not one that is expected."""
    kernel = entry.ordering.kernel
    seconds = judgement.seconds.teardown
    row = _row(
        entry.ordering.name,
        kernel.versions.partition(" (")[0] if kernel else "",
        str(judgement.verdict),
        surfaced(judgement),
        str(judgement.counts.unload_flush_requests),
        f"{seconds:.3f}" if seconds is not None else "-",
    )
    expected = entry.expected(entry.show)
    is_expected = expected is not None and str(judgement.verdict) in expected.run
    if not is_expected:
        wanted = " or ".join(expected.run) if expected else "nothing"
        row += "  " if _is_wide() else "\n    "
        row += f"UNEXPECTED: the catalogue says {wanted}"
    click.echo(row)
    if explain:
        race = " (racy: this run's verdict is one of two)" if entry.racy else ""
        click.echo(_indented(f"{entry.explain}{race}"))
        for note in judgement.notes:
            click.echo(_indented(f"note: {note}"))
    return 0 if is_expected else 1


def _is_wide() -> bool:
    columns = width()
    return columns is None or columns >= _WIDE_COLUMNS


def _row(*cells: str) -> str:
    """Return a line of the table; in a narrow one what surfaced is cut to what is left for it."""
    if _is_wide():
        return _WIDE.format(*cells)
    name, _, verdict, found, requests, seconds = cells
    before, after = f"{name:30} {verdict:8} ", f" {requests:>4} {seconds:>7}"
    room = _NARROW_COLUMNS - len(before) - len(after)
    shown = found if len(found) <= room else f"{found[: room - 3].rstrip()}..."
    return f"{before}{shown:{room}}{after}"


def _indented(text: str) -> str:
    """Return a text below its line, broken where a terminal would break it in a word."""
    columns = width()
    return f"    {text}" if columns is None else click.wrap_text(text, columns - 1, "    ", "    ")


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

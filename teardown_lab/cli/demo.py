"""`teardown demo`: the catalogue on one broker, one line an ordering, and what each shows."""

import sys

import click

from teardown_lab.cli.exits import INCONCLUSIVE, exit_codes
from teardown_lab.experiment.lab import LabOptions, RunOptions, open_lab
from vm_manager.catalogue import catalogue_entry, catalogue_names

_ROW = "{:32} {:10} {:24} {:>8} {:>8}  {}"


@click.command()
@click.option("--broker", default="auto", show_default=True, help="auto, simulated, or a URL")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--explain", is_flag=True, help="say what each ordering shows")
def demo(broker: str, workers: int, explain: bool) -> None:
    """Run the whole catalogue and print one table; exit 0 when every verdict is expected."""
    unexpected = 0
    with exit_codes():
        options = LabOptions(broker=broker, workers=workers, vcpus=4)
        with open_lab(options, click.echo) as lab:
            click.echo(_ROW.format("ordering", "verdict", "surfaced", "requests", "seconds", ""))
            for name in catalogue_names():
                entry = catalogue_entry(name)
                once = RunOptions()
                finished = lab.run(entry.ordering, entry.show, workers, once)
                judgement = finished.judgement
                expected = entry.expected(entry.show)
                verdict = str(judgement.verdict)
                good = expected is not None and verdict in expected.run
                unexpected += not good
                reasons = [letter.reason for letter in judgement.dead_letters]
                surfaced = ", ".join(
                    f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons))
                )
                seconds = judgement.seconds.teardown or 0.0
                row = _ROW.format(
                    name,
                    verdict,
                    surfaced or "-",
                    judgement.counts.unload_flush_requests,
                    f"{seconds:.3f}",
                    "" if good else "UNEXPECTED",
                )
                click.echo(row.rstrip())
                if explain:
                    click.echo(f"    {entry.explain or entry.ordering.title}")
    sys.exit(INCONCLUSIVE if unexpected else 0)

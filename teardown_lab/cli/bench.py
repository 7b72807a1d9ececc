"""`teardown bench`: what a teardown costs, beside what its messages cost in raw pika."""

from dataclasses import asdict
from statistics import median
from typing import Any

import click

from teardown_lab.cli.exits import exit_codes
from teardown_lab.cli.output import print_json
from teardown_lab.cli.parameters import Broker


@click.command()
@click.option("--vcpus", "sizes", type=click.IntRange(1, 1024), multiple=True, default=(8, 64))
@click.option("--pairs", type=click.IntRange(1, 1000), default=7, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--broker", type=Broker(), default="auto", show_default=True, help="auto, or a URL")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def bench(sizes: tuple[int, ...], pairs: int, workers: int, broker: str, as_json: bool) -> None:
    """Time teardowns by turns with a yardstick: the same messages in raw pika, same queues.

    Nothing passes or fails here: machines differ. See docs/performance.md.
    """
    from teardown_lab.benchmark.pairs import measure

    with exit_codes():
        report = measure(broker, sizes, pairs, workers, lambda line: click.echo(line, err=True))
    data = as_json_object(asdict(report))
    if as_json:
        print_json(data)
    else:
        click.echo("\n".join(describe(data)))


def as_json_object(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report with its schema's number, and each result with its ratios."""
    results = [{**result, "ratio": _ratio(result["pairs"])} for result in report["results"]]
    return {"schema": 1, **report, "results": results}


def _ratio(pairs: list[dict[str, float]]) -> dict[str, float]:
    ratios = [pair["ours_s"] / pair["yardstick_s"] for pair in pairs]
    return {"median": median(ratios), "min": min(ratios), "max": max(ratios)}


def describe(data: dict[str, Any]) -> list[str]:
    """Return the report's tables as lines."""
    lines = [
        f"{data['broker']}, {data['cores']} cores, {data['workers']} workers; "
        f"a lone publish to the journal is confirmed after {data['journal_confirm_s'] * 1e3:.1f} ms"
    ]
    for result in data["results"]:
        lines += ["", *_times(result), "", *_hops(result), "", *_cpu(result)]
    return lines


def _times(result: dict[str, Any]) -> list[str]:
    ours = [pair["ours_s"] * 1e3 for pair in result["pairs"]]
    yardstick = [pair["yardstick_s"] * 1e3 for pair in result["pairs"]]
    ratio = result["ratio"]
    row = "{:<28} {:>9} {:>9} {:>9}"
    return [
        f"{result['vcpus']} vCPUs, {len(ours)} pairs, {result['delivery_count']} deliveries of "
        f"requests, {result['record_count']} records",
        row.format("", "median", "min", "max"),
        row.format("teardown, ms", *_three(ours)),
        row.format("yardstick (raw pika), ms", *_three(yardstick)),
        row.format("ratio", *(f"{ratio[name]:.2f}" for name in ("median", "min", "max"))),
    ]


def _three(values: list[float]) -> tuple[str, str, str]:
    return f"{median(values):.1f}", f"{min(values):.1f}", f"{max(values):.1f}"


def _hops(result: dict[str, Any]) -> list[str]:
    from teardown_lab.benchmark.hops import HOPS

    row = "{:<46} {:>9} {:>9}"
    lines = [row.format("where the time goes, ms a teardown (mean)", "ours", "yardstick")]
    hops = zip(HOPS, result["ours_hops_s"], result["yardstick_hops_s"], strict=True)
    for name, ours, yardstick in hops:
        shown = f"{ours * 1e3:.1f}" if name != HOPS[-1] else "(in 1st)"
        lines.append(row.format(name, shown, f"{yardstick * 1e3:.1f}"))
    return lines


def _cpu(result: dict[str, Any]) -> list[str]:
    lines = ["CPU, ms a teardown (mean)"]
    lines += [f"  {name:<44} {seconds * 1e3:9.0f}" for name, seconds in result["cpu_s"].items()]
    return lines

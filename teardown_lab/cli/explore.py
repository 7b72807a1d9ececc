"""`teardown explore`: every interleaving of one ordering."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from teardown_lab.cli.choices import Shape, find_ordering, make_scenario
from teardown_lab.cli.exits import exit_codes
from teardown_lab.cli.output import clear_progress, print_json, show_progress
from teardown_lab.cli.parameters import Duration
from teardown_lab.exit_codes import ExitCode
from teardown_lab.explorer import breadth_first, random_walk
from teardown_lab.explorer.faults import FaultsError, parse_faults
from teardown_lab.explorer.schedule import Schedule
from teardown_lab.explorer.strategy import Bounds, Deadline, Strategy
from teardown_lab.explorer.verdict import ExplorerVerdict, conclude

_STRATEGIES: dict[str, Strategy] = {
    "breadth-first": breadth_first.explore,
    "random": random_walk.explore,
}


@dataclass(frozen=True, slots=True)
class SearchSeconds:
    """How long all took, the counterexample included, and the search alone."""

    all: float
    search: float


@dataclass(frozen=True, slots=True)
class ExploreFlags:
    """What the command line says beside the ordering; each is an option of the same name."""

    vcpus: int | None
    mmu: str | None
    roots: str | None
    scenario: str | None
    faults: str
    ticks: int
    strategy: str
    seed: int
    max_states: int
    max_seconds: float
    no_reduce: bool
    strict: bool
    save: str | None
    as_json: bool


@click.command()
@click.argument("ordering")
@click.option("--vcpus", type=click.IntRange(1), help="number of vCPUs  [default: 3]")
@click.option("--mmu", type=click.Choice(["shadow", "tdp"]), help="first MMU context")
@click.option("--roots", type=click.Choice(["distinct", "shared", "mixed"]), help="who shares")
@click.option("--scenario", type=click.Path(exists=True, dir_okay=False), help="a YAML file")
@click.option("--faults", default="", help="such as duplicate:1,crash:1; docs/explorer.md has all")
@click.option("--ticks", type=click.IntRange(0), default=1, show_default=True)
@click.option("--strategy", type=click.Choice(list(_STRATEGIES)), default="breadth-first")
@click.option("--seed", type=click.IntRange(0), default=0, help="of the random strategy")
@click.option("--max-states", type=click.IntRange(1), default=5_000_000, show_default=True)
@click.option("--max-seconds", type=Duration(0.1), default=600.0, show_default=True)
@click.option("--no-reduce", is_flag=True, help="visit also what the reduction proves equal")
@click.option("--strict", is_flag=True, help="hazards fail the exploration; no reduction")
@click.option("--save", type=click.Path(dir_okay=False), help="write the counterexample there")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def explore(ordering: str, **options: Any) -> None:
    """Explore every interleaving of ORDERING (a name, or a YAML file).

    Exit codes: 0 safe and complete, 1 violated, 2 usage, 3 inconclusive; 130 after Ctrl-C, with
    what was found by then.
    """
    flags = ExploreFlags(**options)
    with exit_codes():
        verdict, seconds = _explore(ordering, flags)
        if flags.save and verdict.counterexample is not None:
            saved = json.dumps(verdict.counterexample.schedule.as_json(), indent=1)
            Path(flags.save).write_text(saved + "\n", encoding="utf-8")
    if flags.as_json:
        searched = {"search_seconds": round(seconds.search, 3)}
        print_json({**verdict.as_json(seconds.all), **searched})
    else:
        click.echo(_describe(verdict, seconds.all))
    sys.exit(_exit_code(verdict, strict=flags.strict))


def _exit_code(verdict: ExplorerVerdict, *, strict: bool) -> int:
    if verdict.interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.VIOLATED if strict and verdict.hazards else ExitCode[verdict.verdict.upper()]


def _explore(name: str, flags: ExploreFlags) -> tuple[ExplorerVerdict, SearchSeconds]:
    began = time.monotonic()
    vcpus = 3 if flags.vcpus is None and flags.scenario is None else flags.vcpus
    scenario = make_scenario(flags.scenario, Shape(vcpus, flags.mmu, flags.roots))
    try:
        faults = parse_faults(flags.faults, flags.ticks)
    except FaultsError as error:
        raise click.BadParameter(f"--faults: {error}") from None
    deadline = Deadline(flags.max_seconds)
    schedule = Schedule(find_ordering(name).ordering, scenario, faults, ())
    bounds = Bounds(
        states_max=flags.max_states,
        seconds_max=flags.max_seconds,
        seed=flags.seed,
        # One order of two independent steps may be a hazard, and the reduction keeps only one.
        reduce=not (flags.no_reduce or flags.strict),
        deadline=deadline,
    )
    searching = time.monotonic()
    explored = _STRATEGIES[flags.strategy](schedule.model(), bounds, _progress(began))
    searched = time.monotonic() - searching
    clear_progress()
    return conclude(schedule, explored, deadline), SearchSeconds(time.monotonic() - began, searched)


def _progress(began: float) -> Callable[[int, int, int], None]:
    """Return what shows how far it is, on a terminal."""

    def show(states: int, transitions: int, depth: int) -> None:
        rate = transitions / max(time.monotonic() - began, 0.001)
        show_progress(f"{states:,} states, depth {depth}, {rate:,.0f} transitions/s")

    return show


def _describe(verdict: ExplorerVerdict, seconds: float) -> str:
    lines = [
        f"{verdict.schedule.ordering.name}: {verdict.verdict.upper()}",
        f"  {verdict.covered()}, {verdict.explored.transitions} transitions, {seconds:.2f} s"
        + (" (reduced)" if verdict.explored.is_reduced else ""),
    ]
    lines += [f"  never seen although implied: {name}" for name in verdict.missing]
    lines += [f"  {each}" for each in (*verdict.disagreements, *verdict.notes)]
    lines += [f"{each.invariant}: {each.explain}" for each in verdict.violations]
    lines += [f"hazard: {each.hazard}{_of_vcpu(each.vcpu)}" for each in verdict.hazards]
    found = verdict.counterexample
    if found is not None:
        steps = len(found.schedule.path)
        way = "the shortest way there" if found.is_shortest else "a way there"
        lines += ["", f"{way}, {steps} step{'s' * (steps != 1)}:"]
        lines += [f"  {found.told.text}"]
        if found.impossible:
            lines.append(f"  {found.impossible}")
        if found.told.race:
            lines.append(f"  racing: {found.told.race}")
        if found.told.parts_at:
            parts = found.told.parts_at
            lines.append(
                f"  parts from a passing schedule at step {parts['step']}: "
                f"{parts['here']} instead of {parts['passing']}"
            )
        if len(found.kinds) > 1:
            kinds = " and ".join(f"{name} ({count} steps)" for name, count in found.kinds.items())
            lines.append(f"  both kinds exist: {kinds}")
        lines += ["", f"teardown replay {found.schedule.token()}"]
    return "\n".join(lines)


def _of_vcpu(vcpu: int | None) -> str:
    return "" if vcpu is None else f" of vCPU {vcpu}"

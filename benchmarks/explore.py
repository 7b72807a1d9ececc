"""How fast `teardown explore` is: every entry of the catalogue, one process each, on one core.

Prints a table, or one JSON object with --json. Seconds are those of the whole command, its start
and the counterexample included; the rates are the search's alone. Memory is the peak of the
process (ru_maxrss). Nothing here passes or fails: machines differ.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from vm_manager.catalogue import catalogue_names

HEADERS = ("ordering", "vCPUs", "states", "transitions", "tr./s", "states/s", "s in all", "MB")


@dataclass(frozen=True)
class Row:
    """One exploration; `seconds` and `peak_mb` are of the whole process."""

    ordering: str
    vcpus: int
    verdict: str
    complete: bool
    states: int
    transitions: int
    transitions_per_s: float
    states_per_s: float
    seconds: float
    peak_mb: float


def measure(name: str, vcpus: int, flags: list[str]) -> Row:
    """Explore one entry in a process of its own, pinned to one core."""
    command = [sys.executable, "-m", "teardown_lab", "explore", name, "--vcpus", str(vcpus)]
    began = time.monotonic()
    with subprocess.Popen([*command, "--json", *flags], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.read())
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    searched = max(said["search_seconds"], 0.001)
    return Row(
        name,
        vcpus,
        said["verdict"],
        said["complete"],
        said["states"],
        said["transitions"],
        round(said["transitions"] / searched),
        round(said["states"] / searched),
        round(time.monotonic() - began, 2),
        round(usage.ru_maxrss / 1024, 1),
    )


def main() -> None:
    """Measure what the arguments ask for; all of the catalogue, 3 and 4 vCPUs, if nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("orderings", nargs="*", help="names; all of the catalogue if left out")
    parser.add_argument("--vcpus", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--no-reduce", action="store_true")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    flags = ["--no-reduce"] if wanted.no_reduce else []
    names = wanted.orderings or catalogue_names()
    rows = [measure(name, vcpus, flags) for name in names for vcpus in wanted.vcpus]
    if wanted.json:
        print(json.dumps({"schema": 1, "rows": [asdict(row) for row in rows]}))
        return
    line = "{:<31}{:>6}{:>9}{:>12}{:>9}{:>9}{:>9}{:>7}"
    print(line.format(*HEADERS))
    for row in rows:
        rates = f"{row.transitions_per_s:,.0f}", f"{row.states_per_s:,.0f}"
        counts = row.states, row.transitions
        print(line.format(row.ordering, row.vcpus, *counts, *rates, row.seconds, row.peak_mb))


if __name__ == "__main__":
    main()

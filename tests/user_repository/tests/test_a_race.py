"""An ordering that races may pass by luck: a run shows one order of events, `explore` all."""

import json
import subprocess
import sys
from pathlib import Path

OURS = Path(__file__).parents[1] / "orderings" / "detach-first.yaml"
TICKER = "ticker-left-running"


def explore(ordering, *arguments):
    """Return what `teardown explore --json` finds; it needs no broker."""
    command = [sys.executable, "-m", "teardown_lab", "explore", str(ordering), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_one_run_of_a_race_may_end_either_way(run_ordering):
    assert run_ordering(TICKER, vcpus=2).verdict in ("safe", "violated")


def test_every_interleaving_of_it_is_judged():
    found = explore(TICKER, "--vcpus", "2")

    assert found["verdict"] == "violated"
    assert found["counterexample"]["token"].startswith("td1.")


def test_no_interleaving_breaks_ours():
    found = explore(OURS, "--vcpus", "2")

    assert (found["verdict"], found["complete"]) == ("safe", True)

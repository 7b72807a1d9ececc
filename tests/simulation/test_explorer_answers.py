"""What an exploration says of itself: determinism, witnesses, bounds, the command line."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.exploring import answer, explored, schedule, shipped

from teardown_lab.explorer import random_walk
from teardown_lab.explorer.faults import Budget, FaultsError, parse_faults
from teardown_lab.explorer.strategy import Bounds, Explored
from teardown_lab.explorer.verdict import conclude
from vm_protocol.scenario import Scenario

EXPLORE = [sys.executable, "-m", "teardown_lab", "explore"]
KEYS = {
    "schema",
    "ordering",
    "scenario",
    "faults",
    "verdict",
    "complete",
    "states",
    "transitions",
    "violations",
    "counterexample",
    "seconds",
}
"""The contract; more keys are allowed."""

ENDLESS = ("--max-seconds", "120", "--max-states", "100000000")
SECONDS = 60


def explore(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EXPLORE, *arguments],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def said(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


# --- determinism ---------------------------------------------------------------------------


def test_an_exploration_that_is_repeated_is_the_same_one() -> None:
    begin = schedule("parallel-destroy", Scenario(vcpus=3, nested=(0, 2), avic=True, async_pf=1))
    first, second = (explored(begin, Bounds(states_max=20_000)) for _ in range(2))

    assert first == second
    assert first.digest != 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parallel-destroy", "ticker-left-running"])
def test_two_processes_with_different_hash_seeds_explore_the_same(name: str) -> None:
    ran = [
        said(explore(name, "--vcpus", "3", "--json", PYTHONHASHSEED=seed)) for seed in ("1", "2")
    ]

    untimed = {"seconds": 0, "search_seconds": 0}
    assert len(ran[0]["digest"]) == 16
    assert [{**each, **untimed} for each in ran] == [{**ran[0], **untimed}] * 2


def test_random_walks_depend_on_their_seed_alone() -> None:
    begin = schedule("parallel-destroy", 3)

    def walked(seed: int) -> Explored:
        return random_walk.explore(begin.model(), Bounds(500, seed=seed), lambda *_: None)

    assert walked(1) == walked(1)
    assert walked(1).digest != walked(2).digest
    assert not walked(1).complete


# --- vacuity -------------------------------------------------------------------------------


def test_a_flush_that_is_implied_and_never_seen_makes_safety_inconclusive() -> None:
    verdict = conclude(schedule("unload-in-destroy"), Explored(complete=True))

    assert verdict.verdict == "inconclusive"
    assert verdict.missing == ("flush-reached-live-vcpu", "unload-flushed")


EVERYTHING = frozenset(
    {
        "unload-flushed",
        "flush-reached-live-vcpu",
        "destroys-overlapped",
        "duplicate",
        "redeliver",
        "hold",
    }
)


@pytest.mark.parametrize("missing", sorted(EVERYTHING))
def test_each_required_witness_is_missed_alone(missing: str) -> None:
    parallel = shipped("parallel-destroy")
    begin = schedule(parallel, 2, Budget(duplicate=1, redeliver=1, hold=1))

    assert conclude(begin, Explored(complete=True, witnessed=EVERYTHING)).verdict == "safe"
    verdict = conclude(begin, Explored(complete=True, witnessed=EVERYTHING - {missing}))
    assert (verdict.verdict, verdict.missing) == ("inconclusive", (missing,))


def test_a_fault_that_was_allowed_and_never_met_anything_makes_safety_inconclusive() -> None:
    begin = schedule("unload-in-destroy", Scenario(mmu="tdp"), Budget(duplicate=1))

    assert conclude(begin, Explored(complete=True)).missing == ("duplicate",)
    assert conclude(begin, Explored(complete=True)).verdict == "inconclusive"


def test_commands_that_must_overlap_and_never_do_make_safety_inconclusive() -> None:
    begin = schedule("fenced-parallel-destroy", Scenario(vcpus=2, mmu="tdp"))

    assert conclude(begin, Explored(complete=True)).missing == ("destroys-overlapped",)


@pytest.mark.parametrize("shape", [{"mmu": "tdp"}, {"vcpus": 1}, {"roots": "shared"}])
def test_nothing_is_implied_that_cannot_happen(shape: dict[str, Any]) -> None:
    for name in ("unload-in-destroy-stop-at-hole", "parallel-destroy", "zap-all-per-vcpu"):
        scenario = Scenario.model_validate({"vcpus": 2, **shape})

        assert answer(schedule(name, scenario)).verdict.missing == ()


def test_a_violation_is_one_even_if_a_witness_is_missing() -> None:
    begin = schedule("parallel-destroy")
    found = explored(begin)
    found.witnessed = frozenset()

    assert conclude(begin, found).verdict == "violated"


# --- bounds --------------------------------------------------------------------------------


def test_a_bound_of_states_without_a_finding_is_inconclusive() -> None:
    ran = explore("unload-in-destroy", "--vcpus", "3", "--max-states", "10")

    assert ran.returncode == 3
    assert ran.stdout.startswith("unload-in-destroy: INCONCLUSIVE")
    assert "stopped by budget: 10 states: 3 vCPUs, 0 faults" in ran.stdout


def test_a_bound_of_seconds_without_a_finding_is_inconclusive() -> None:
    faults = "duplicate:2,redeliver:2,hold:2"
    ran = explore("unload-in-destroy", "--faults", faults, "--max-seconds", "0.5", "--json")

    assert ran.returncode == 3
    assert said(ran)["complete"] is False
    assert said(ran)["covered"].startswith("stopped by budget: 0.5 s: 3 vCPUs, 2 duplicate, ")


def test_a_bound_does_not_hide_what_was_found_before_it() -> None:
    ran = explore("parallel-destroy", "--vcpus", "3", "--max-states", "1500", "--json")

    assert ran.returncode == 1
    assert said(ran)["complete"] is False
    assert said(ran)["counterexample"]["is_shortest"] is True


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("arguments", "is_found", "told"),
    [
        (("parallel-destroy", "--strategy", "random"), True, "parallel-destroy: VIOLATED"),
        (
            ("unload-in-destroy", "--faults", "duplicate:2,redeliver:2"),
            False,
            "unload-in-destroy: INCONCLUSIVE",
        ),
    ],
)
def test_ctrl_c_shows_what_was_found_so_far(
    arguments: tuple[str, ...], is_found: bool, told: str
) -> None:
    command = [*EXPLORE, *arguments, *ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while cpu_seconds(process) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=SECONDS)

    assert process.returncode == 130
    assert out.startswith(told)
    assert "stopped by Ctrl-C: 3 vCPUs" in out
    assert ("teardown replay td1." in out) == is_found


def test_a_terminal_shows_how_far_it_is_and_a_file_does_not() -> None:
    main, terminal = pty.openpty()
    command = [*EXPLORE, "parallel-destroy", "--vcpus", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, text=True) as process:
        out, _ = process.communicate(timeout=SECONDS)
    os.close(terminal)
    shown = os.read(main, 65_536).decode()
    os.close(main)

    assert re.search(r"\r[\d,]+ states, depth \d+, [\d,]+ transitions/s\x1b\[K", shown)
    assert shown.endswith("\r\x1b[K")
    assert "transitions/s" not in out
    assert explore("parallel-destroy", "--vcpus", "3").stderr == ""


# --- the command line ----------------------------------------------------------------------


def test_json_is_one_object_with_the_contracts_keys(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    ran = explore("parallel-destroy", "--vcpus", "2", "--json", "--save", str(file))

    found = said(ran)
    assert ran.returncode == 1
    assert set(found) >= KEYS
    assert (found["schema"], found["ordering"], found["verdict"]) == (
        1,
        "parallel-destroy",
        "violated",
    )
    assert found["scenario"]["vcpus"] == 2
    assert found["complete"] is True
    assert {"invariant", "vcpu", "message_id", "explain"} == set(found["violations"][0])
    assert {"token", "deviations", "racing", "parts_at", "kinds", "turns"} <= set(
        found["counterexample"]
    )
    assert json.loads(file.read_text())["token"] == found["counterexample"]["token"]


def test_a_safe_ordering_has_no_counterexample_and_exits_with_0() -> None:
    ran = explore("unload-in-destroy", "--faults", "redeliver", "--vcpus", "2", "--json")

    found = said(ran)
    assert ran.returncode == 0
    assert (found["verdict"], found["counterexample"], found["violations"]) == ("safe", None, [])
    assert found["faults"] == {"redeliver": 1}
    assert "redeliver" in found["witnessed"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("no-such-ordering",), "there is no ordering"),
        (("unload-in-destroy", "--faults", "flood:1"), "'flood' is no fault; valid are duplicate"),
        (("unload-in-destroy", "--faults", "hold:many"), "a whole number below 1000"),
        (("unload-in-destroy", "--vcpus", "0"), "--vcpus"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: tuple[str, ...], told: str) -> None:
    ran = explore(*arguments)

    assert ran.returncode == 2
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr


def test_faults_are_read_from_text() -> None:
    assert parse_faults("", 1) == Budget(ticks=1)
    assert parse_faults("hold, duplicate:2,", 0) == Budget(duplicate=2, hold=1)
    assert parse_faults("crash:3", 0) == Budget(crash=3)
    for wrong in ("hold:-1", "ticks:1", "hold:9999999", ":1", "hold:1:1"):
        with pytest.raises(FaultsError):
            parse_faults(wrong, 0)


def test_an_ordering_without_a_fence_is_explored_from_its_own_file(tmp_path: Path) -> None:
    own = shipped("unload-in-destroy", fence=False, kernel=None).model_dump(mode="json")
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({**own, "name": "mine"}))  # JSON is YAML

    ran = explore(str(file), "--vcpus", "2")

    assert ran.returncode == 1
    assert ran.stdout.startswith("mine: VIOLATED")


def test_the_benchmark_measures_a_whole_exploration() -> None:
    """How fast anything was is nobody's matter here."""
    script = Path(__file__).parents[2] / "benchmarks" / "explore.py"
    ran = subprocess.run(
        [sys.executable, script, "unload-in-destroy", "--vcpus", "2", "--json"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )

    (row,) = said(ran)["rows"]
    assert (row["ordering"], row["vcpus"], row["verdict"]) == ("unload-in-destroy", 2, "safe")
    assert row["complete"]
    assert row["transitions"] == row["states"] - 1
    assert row["transitions_per_s"] > 0
    assert row["peak_mb"] > 1

"""Counterexamples: shortest, told as deviations from FIFO, and the same after a round trip."""

import json
import zlib
from base64 import urlsafe_b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.exploring import answer, schedule, shipped, unreduced
from support.orderings import orderings, scenarios

from teardown_lab.cli.replay import replay
from teardown_lab.explorer import random_walk
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.follow import NotEnabled, follow
from teardown_lab.explorer.schedule import (
    SCHEDULE_CHARACTERS_MAX,
    TOKEN_PREFIX,
    Schedule,
    ScheduleError,
    read_schedule,
    turns,
)
from teardown_lab.explorer.strategy import Bounds
from teardown_lab.explorer.verdict import Counterexample, ExplorerVerdict, conclude
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

RACY = [
    schedule("parallel-destroy"),
    schedule("ticker-left-running"),
    schedule(shipped("unload-in-destroy", fence=False)),
    schedule("unload-in-destroy-wipe-last"),
    schedule("zap-all-per-vcpu"),
    schedule("async-pf-not-cleared", Scenario(vcpus=2, async_pf=1)),
    schedule("vm-state-before-vcpus", Scenario(vcpus=2, nested=(0,))),
    schedule(shipped("unload-in-destroy", fence=False), 1, Budget(ticks=1, hold=1)),
]


def counterexample(verdict: ExplorerVerdict) -> Counterexample:
    assert verdict.counterexample is not None
    return verdict.counterexample


@pytest.mark.parametrize("begin", RACY, ids=lambda each: each.ordering.name)
def test_the_counterexample_is_the_shortest_there_is(begin: Schedule) -> None:
    """Told against a search without the reduction, which may take a longer way."""
    verdict = answer(begin).verdict

    found = counterexample(verdict)
    shortest = min(len(path) for path in unreduced(begin).paths.values())
    assert found.is_shortest
    assert len(found.schedule.path) == shortest
    assert found.violation is not None
    _, findings = follow(begin.model(), found.schedule.path)
    assert found.key[:2] in {finding.kind for finding in findings}


@pytest.mark.parametrize("name", ["parallel-destroy", "ticker-left-running"])
def test_of_equally_short_ones_the_post_after_the_free_comes_first(name: str) -> None:
    begin = schedule(name)
    lengths = {key[2]: len(path) for key, path in unreduced(begin).paths.items() if key[1] == 0}

    found = counterexample(answer(begin).verdict)

    assert lengths[True] == lengths[False]
    assert found.key == ("use-after-free", 0, True)
    assert found.kinds == {
        "posted-after-free": lengths[True],
        "posted-before-free": lengths[False],
    }


def test_a_race_is_told_by_what_is_held_until_when_and_by_both_messages() -> None:
    found = counterexample(answer(schedule("parallel-destroy")).verdict)

    held, until = "roots-released/1/2.0/1", "unload-done/0/2.0/1"
    assert found.told.deviations == [{"held": held, "until": until, "from_step": 13, "to_step": 16}]
    assert found.told.racing == ("request/6@0", until)
    assert found.told.race == f"TlbFlush request/6@0 and {until}, which frees vCPU 0"
    assert found.told.parts_at == {"step": 13, "here": "request/5@0", "passing": held}


def test_a_tick_is_told_by_the_step_that_it_follows() -> None:
    found = counterexample(answer(schedule("ticker-left-running")).verdict)

    assert [each["held"] for each in found.told.deviations] == ["tick"]
    assert found.told.racing == ("request/5@0", "unload-done/0/1.0/1")
    assert found.told.parts_at is not None
    assert found.told.parts_at["here"] == "tick"


def test_what_ends_so_without_any_deviation_says_that() -> None:
    found = counterexample(answer(schedule("unload-in-destroy-wipe-last")).verdict)

    assert found.told.deviations == []
    assert found.told.text.startswith("no deviation: first in, first out ends like this")
    assert found.told.racing == ()  # the free leads to the use: one order, no race


def test_a_fault_is_told_by_the_step_that_it_is_chosen_at() -> None:
    begin = schedule(shipped("unload-in-destroy", fence=False), 1, Budget(hold=1))
    verdict = answer(begin).verdict

    assert counterexample(verdict).told.deviations != []
    assert verdict.disagreements == ()


# --- round trips -----------------------------------------------------------------------------


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(order=orderings(racy=True), scenario=scenarios(racy=True), seed=st.integers(0, 99))
def test_any_schedule_survives_its_token_and_its_file(
    order: Ordering, scenario: Scenario, seed: int
) -> None:
    begin = schedule(order, scenario, Budget(ticks=1, duplicate=1, hold=1))
    walked = random_walk.explore(begin.model(), Bounds(60, seed=seed), lambda *_: None)
    path = max(walked.paths.values(), key=len, default=())
    found = replace(begin, path=path)

    assert read_schedule(found.token()) == found
    assert read_schedule(json.dumps(found.as_json())) == found
    assert len(turns(found.model(), found.path)) == len(path)


def token(data: Any) -> str:
    packed = zlib.compress(json.dumps(data).encode())
    return TOKEN_PREFIX + urlsafe_b64encode(packed).decode()


def parts(**changes: Any) -> dict[str, Any]:
    order = shipped("unload-in-destroy").model_dump(mode="json")
    return {"o": order, "s": {"vcpus": 2}, "f": {"ticks": 1}, "p": [0], **changes}


WRONG = {
    "no token": "",
    "words": "hello",
    "no base64": TOKEN_PREFIX + "!!!!",
    "no zlib": TOKEN_PREFIX + "aGVsbG8",
    "cut short": schedule("parallel-destroy").token()[:-9],
    "no JSON": TOKEN_PREFIX + urlsafe_b64encode(zlib.compress(b"hello")).decode(),
    "a list": "[]",
    "null": "null",
    "nothing in it": "{}",
    "nothing in the token": token({}),
    "deeply nested": "[" * 200_000,
    "a deep ordering": json.dumps({"ordering": 1}).replace("1", "[" * 100_000),
    "an unknown step": token(parts(o={"name": "x", "steps": ["frobnicate"]})),
    "a step that is none": token(parts(o=7)),
    "too many vCPUs": token(parts(s={"vcpus": 10**6})),
    "no scenario": token(parts(s=None)),
    "an unknown fault": token(parts(f={"flood": 1})),
    "a fault of another kind": token(parts(f={"hold": "many"})),
    "a negative fault": token(parts(f={"ticks": -1})),
    "faults as a list": token(parts(f=[1])),
    "a choice that is not there": token(parts(p=[5])),
    "a choice that is a word": token(parts(p=["0"])),
    "a choice that is negative": token(parts(p=[-1])),
    "a choice that is huge": token(parts(p=[10**30])),
    "a choice that is true": token(parts(p=[True])),
    "no path": token(parts(p={})),
    "a bomb": TOKEN_PREFIX + urlsafe_b64encode(zlib.compress(b" " * 200_000_000, 9)).decode(),
    "too long": " " + "x" * (SCHEDULE_CHARACTERS_MAX + 1),
    "a number too long": "9" * 10_000,
}


@pytest.mark.parametrize("why", WRONG)
def test_garbage_is_a_schedule_error_with_a_reason(why: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        read_schedule(WRONG[why])

    text = str(caught.value)
    assert text.startswith(("no schedule of `teardown explore`: ", "the schedule does not fit"))
    assert len(text) < 300


@pytest.mark.parametrize("text", [WRONG["no zlib"], WRONG["deeply nested"], "\xff", "no JSON"])
def test_replay_takes_garbage_for_a_usage_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "found.json"
    file.write_text(text, encoding="latin-1")

    for argument in (str(file), str(tmp_path), "no-such-file.json", "x" * 5000, TOKEN_PREFIX):
        ran = CliRunner().invoke(replay, [argument, "--broker", "simulated"])

        assert ran.exit_code == 2, ran.output
        assert ran.stderr.startswith("teardown: ")
        assert len(ran.stderr) < 400


def test_a_path_of_another_scenario_is_not_followed() -> None:
    found = counterexample(answer(schedule("parallel-destroy")).verdict).schedule
    other = replace(found, scenario=Scenario(vcpus=1))

    with pytest.raises(NotEnabled, match=r"step [0-9]+: choice 0:[0-9]+ is not possible"):
        follow(other.model(), other.path)
    with pytest.raises(ScheduleError, match="does not fit its ordering: step"):
        read_schedule(other.token())


def test_a_replay_without_a_broker_ends_as_the_checker_says(tmp_path: Path) -> None:
    found = counterexample(answer(schedule("parallel-destroy")).verdict).schedule
    file = tmp_path / "found.json"
    file.write_text(json.dumps(found.as_json()))

    for argument in (str(file), found.token()):
        ran = CliRunner().invoke(replay, [argument, "--broker", "simulated"])

        assert ran.exit_code == 1
        assert "use-after-free: `unload_mmu`, line 17, of vCPU 1 posted a TLB flush" in ran.stdout


def test_a_walk_is_no_shortest_way_and_says_so() -> None:
    begin = schedule("parallel-destroy", 3)
    walked = random_walk.explore(begin.model(), Bounds(3000, seed=3), lambda *_: None)

    found = counterexample(conclude(begin, walked))
    assert not found.is_shortest
    assert len(found.schedule.path) == min(map(len, walked.paths.values()))

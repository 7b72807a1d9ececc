"""A schedule that the explorer found is forced on the real broker, and ends alike every time."""

from pathlib import Path

import pytest
from support.exploring import ONE_TICK, answer, schedule, shipped

from teardown_lab.explorer import random_walk
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.schedule import Schedule, read_schedule, turns
from teardown_lab.explorer.strategy import Bounds
from teardown_lab.explorer.verdict import conclude
from teardown_lab.own_broker.private_node import PrivateNode
from teardown_lab.replay.forcing import force
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

TIMES = 10
UNFENCED = shipped("unload-in-destroy", fence=False)
FOUND = {
    "without the fence": schedule(UNFENCED),
    "parallel-destroy": schedule("parallel-destroy"),
    "ticker-left-running": schedule("ticker-left-running"),
    "a message held": schedule(UNFENCED, 1, Budget(hold=1)),
}


def shortest(begin: Schedule) -> Schedule:
    found = answer(begin).verdict.counterexample
    assert found is not None
    return found.schedule


def walked(fault: str, act: str) -> Schedule:
    """Return a violated schedule in which a fault is met, the shortest that random walks find."""
    begin = schedule(UNFENCED, Scenario(vcpus=2, ticker=False), Budget(**{fault: 1}))
    for seed in range(100):
        explored = random_walk.explore(begin.model(), Bounds(400, seed=seed), lambda *_: None)
        found = conclude(begin, explored).counterexample
        if found is not None and act in {
            turn.act for turn in turns(begin.model(), found.schedule.path)
        }:
            return found.schedule
    raise AssertionError(f"no walk of 100 meets {act}")


def replayed(found: Schedule, broker: str, tmp_path: Path, times: int) -> list[bool]:
    """Force a schedule that went through its token; tell of each run whether it ended alike."""
    token = read_schedule(found.token())
    history = tmp_path / "history.jsonl"
    return [run.reached.is_confirmed for run in force(token, broker, 60, times, history)]


@pytest.mark.parametrize("name", FOUND)
def test_the_forced_run_breaks_what_was_found_every_time(
    lone_node: PrivateNode, tmp_path: Path, name: str
) -> None:
    assert replayed(shortest(FOUND[name]), lone_node.url, tmp_path, TIMES) == [True] * TIMES


@pytest.mark.parametrize(
    ("fault", "act"),
    [("duplicate", "copy"), ("redeliver", "redeliver"), ("redeliver", "lose"), ("hold", "hold")],
)
def test_faults_are_forced_as_well(
    lone_node: PrivateNode, tmp_path: Path, fault: str, act: str
) -> None:
    assert replayed(walked(fault, act), lone_node.url, tmp_path, 3) == [True] * 3


def test_a_ticker_that_fired_in_one_run_is_held_in_the_next(
    lone_node: PrivateNode, tmp_path: Path
) -> None:
    """A gate that was opened at the end of a run is closed again."""
    found = shortest(schedule("ticker-left-running", 3, ONE_TICK))

    assert replayed(found, lone_node.url, tmp_path, 2) == [True, True]

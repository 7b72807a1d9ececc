"""A schedule that the explorer found is forced on the real broker, and ends alike every time."""

import pytest

from teardown_lab.experiment.lab import LabOptions, RunOptions, open_lab
from teardown_lab.explorer import breadth_first
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.schedule import Schedule, read_schedule, turns
from teardown_lab.explorer.strategy import Bounds
from teardown_lab.explorer.verdict import Counterexample, conclude
from teardown_lab.replay.conductor import conduct
from vm_manager.catalogue import catalogue_entry
from vm_protocol.scenario import Scenario

pytestmark = pytest.mark.rabbitmq


def counterexample(name: str, *, fence: bool = True) -> Counterexample:
    ordering = catalogue_entry(name).ordering.model_copy(update={"fence": fence})
    schedule = Schedule(ordering, Scenario(vcpus=2), Budget(ticks=1), ())
    explored = breadth_first.explore(schedule.model(), Bounds(), lambda *_: None)
    found = conclude(schedule, explored).counterexample
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "fence", "times"),
    [("unload-in-destroy", False, 10), ("ticker-left-running", True, 1)],
)
def test_the_forced_run_breaks_what_was_found(
    own_node: str, tmp_path, name: str, fence: bool, times: int
) -> None:
    found = counterexample(name, fence=fence)
    schedule = read_schedule(found.schedule.token())
    steps = turns(schedule.model(), schedule.path)
    reached = []
    for number in range(times):
        with conduct(steps) as conductor:
            gate = f"127.0.0.1:{conductor.port}"
            options = LabOptions(broker=own_node, workers=2, vcpus=2, gate=gate)
            with open_lab(options, lambda _: None) as lab:
                once = RunOptions(timeout_s=30, history=tmp_path / f"{number}.jsonl")
                finished = lab.run(schedule.ordering, schedule.scenario, 2, once)
        assert conductor.failure is None
        assert conductor.played_count == len(steps)
        kinds = {(str(each.invariant), each.vcpu) for each in finished.judgement.violations}
        reached.append((found.key[0], found.key[1]) in kinds)

    assert reached == [True] * times

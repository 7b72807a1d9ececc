"""The size of a VM is no bug of its ordering: virtual time does not run out, nothing expires."""

import pytest

from teardown_lab.experiment.lab import Lab, RunOptions
from teardown_lab.simulator.world import HANDLED_AT_ONCE, HANDLING_NS, handling_ns
from vm_manager.catalogue import catalogue_entry
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.spread, pytest.mark.slow]


@pytest.mark.parametrize(("vcpus", "nanoseconds"), [(1, 200_000), (64, 200_000), (128, 50_000)])
def test_a_delivery_takes_less_time_the_larger_the_vm(vcpus: int, nanoseconds: int) -> None:
    assert handling_ns(vcpus) == nanoseconds


def test_all_requests_of_the_largest_vm_take_no_longer_than_those_of_a_small_one() -> None:
    largest = handling_ns(1024) * 1024**2
    assert 0 < largest <= HANDLING_NS * HANDLED_AT_ONCE**2


@pytest.mark.parametrize(
    "shape", [{"vcpus": 96}, {"vcpus": 40, "previous_roots": 3}, {"vcpus": 72, "ticker_ms": 1}]
)
def test_a_larger_vm_is_as_safe(simulated_lab: Lab, workdir, shape) -> None:
    options = RunOptions(timeout_s=20, history=workdir / f"large-{shape['vcpus']}.jsonl")

    ordering = catalogue_entry("unload-in-destroy").ordering
    judgement = simulated_lab.run(ordering, Scenario(**shape), 2, options).judgement

    assert (str(judgement.verdict), judgement.notes) == ("safe", ())
    assert judgement.seconds.teardown is not None
    assert judgement.seconds.teardown < options.timeout_s


def test_a_run_of_a_moment_in_virtual_time_proves_nothing(simulated_lab: Lab, workdir) -> None:
    options = RunOptions(timeout_s=0.02, history=workdir / "moment.jsonl")

    ordering = catalogue_entry("unload-in-destroy").ordering
    judgement = simulated_lab.run(ordering, Scenario(vcpus=16), 2, options).judgement

    assert (str(judgement.verdict), judgement.violations) == ("inconclusive", ())
    assert "ran out of time (0.02 s)" in judgement.notes[0]

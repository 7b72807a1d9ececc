"""What is left of a violated run does not prove it safe, nor does a safe one accuse an ordering."""

from pathlib import Path

import pytest
from support.runs import tear_down

from teardown_lab.checker import History, judge
from teardown_lab.experiment.lab import Lab
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.spread, pytest.mark.slow]

TWO = {"vcpus": 2}


def expected(verdict: str) -> list[str]:
    """Return the entries whose demo scenario always has this verdict."""
    entries = {name: catalogue_entry(name) for name in catalogue_names()}
    return [
        name
        for name, entry in entries.items()
        if (cell := entry.expected(entry.show)) is not None and cell.run == (verdict,)
    ]


@pytest.mark.parametrize("name", expected("violated"))
def test_a_violated_run_is_never_safe_with_its_head_its_tail_or_one_record_cut_out(
    simulated_lab: Lab, workdir: Path, name: str
) -> None:
    scenario = Scenario.model_validate(catalogue_entry(name).show.model_dump() | TWO)
    whole, records = tear_down(simulated_lab, name, workdir, scenario)
    assert whole.verdict == "violated"

    safe = []
    for k in range(1, len(records)):
        parts = (records[:k], records[k:], records[: k - 1] + records[k:])
        safe += [k for part in parts if judge(History.of(part)).verdict == "safe"]

    assert safe == []


@pytest.mark.parametrize("name", expected("safe"))
def test_a_safe_run_is_never_violated_with_one_record_cut_out(
    simulated_lab: Lab, workdir: Path, name: str
) -> None:
    scenario = Scenario.model_validate(catalogue_entry(name).show.model_dump() | TWO)
    whole, records = tear_down(simulated_lab, name, workdir, scenario)
    assert whole.verdict == "safe"

    accused = [
        (records[k], judgement.violations)
        for k in range(len(records))
        if (judgement := judge(History.of(records[:k] + records[k + 1 :]))).verdict == "violated"
    ]

    assert accused == []

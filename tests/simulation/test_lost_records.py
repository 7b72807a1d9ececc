"""Whatever is missing from the history of a violated run, what is left does not prove it safe."""

from pathlib import Path

import pytest
from support.runs import tear_down

from teardown_lab.checker import History, judge
from teardown_lab.experiment.lab import Lab
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.scenario import Scenario

TWO = {"vcpus": 2}
VIOLATED = [
    name
    for name in catalogue_names()
    if (expected := catalogue_entry(name).expected(catalogue_entry(name).show)) is not None
    and expected.run == ("violated",)
]


@pytest.mark.parametrize("name", VIOLATED)
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

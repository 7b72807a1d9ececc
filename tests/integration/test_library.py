"""The lab in a program of others', which has configured no logs."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.rabbitmq

PROGRAM = """
import sys
from pathlib import Path
from teardown_lab.experiment.lab import LabOptions, RunOptions, open_lab
from vm_manager.catalogue import catalogue_entry
from vm_protocol.scenario import Scenario

with open_lab(LabOptions(broker=sys.argv[1], vcpus=1), lambda line: None) as lab:
    ordering = catalogue_entry("unload-in-destroy").ordering
    options = RunOptions(history=Path(sys.argv[2]))
    print(lab.run(ordering, Scenario(vcpus=1), 1, options).judgement.verdict)
"""


def test_a_program_that_uses_the_lab_gets_none_of_its_lines(amqp_url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, amqp_url, str(tmp_path / "history.jsonl")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "safe\n", "")

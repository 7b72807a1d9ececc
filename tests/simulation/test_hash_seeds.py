"""The order of sets and dictionaries of strings must reach neither a history nor an exploration."""

import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from support.exploring import ONE_TICK, explored, schedule
from support.simulated import run

from teardown_lab.explorer.faults import Budget
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.scenario import Scenario

TESTS = Path(__file__).parent.parent
SCENARIO = Scenario(vcpus=3, async_pf=1, avic=True, nested=(0, 2), previous_roots=1)


SHAPES = [{"roots": "distinct"}, {"roots": "shared"}, {"mmu": "tdp"}]
FAULTS = [ONE_TICK, Budget(duplicate=1), Budget(redeliver=1), Budget(hold=1)]


def recorded() -> str:
    """Return a digest of what every shipped ordering's run records."""
    found = sha256()
    for name in catalogue_names():
        for record in run(catalogue_entry(name).ordering, SCENARIO, workers=2).everything:
            found.update(record.to_line().encode())
    return found.hexdigest()


def visited() -> str:
    """Return a digest of all that explorations of every shipped ordering find, and on which way."""
    shapes = [Scenario.model_validate({"vcpus": n, **s}) for n in (1, 2, 3) for s in SHAPES]
    begins = [(scenario, ONE_TICK) for scenario in shapes]
    begins += [(Scenario(vcpus=2), faults) for faults in FAULTS]
    found = sha256()
    for name in catalogue_names():
        for scenario, faults in begins:
            every = explored(schedule(name, scenario, faults))
            of = (every.digest, every.states, every.transitions, [*every.paths.items()])
            found.update(repr(of).encode())
    return found.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("what", [recorded, visited])
def test_two_processes_with_different_hash_seeds_come_to_the_same(what: Callable[[], str]) -> None:
    code = f"from simulation.test_hash_seeds import {what.__name__}; print({what.__name__}())"
    digests = [what()]
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(TESTS)}
        done = subprocess.run(  # our own interpreter and code
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.append(done.stdout.strip())

    assert digests == [digests[0]] * 3
    assert len(digests[0]) == 64

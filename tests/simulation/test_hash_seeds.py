"""The order of sets and dictionaries of strings must not reach any history."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from support.simulated import run

from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.scenario import Scenario

TESTS = Path(__file__).parent.parent
SCENARIO = Scenario(vcpus=3, async_pf=1, avic=True, nested=(0, 2), previous_roots=1)


def digest() -> str:
    """Return a digest of what every shipped ordering's run records."""
    found = sha256()
    for name in catalogue_names():
        for record in run(catalogue_entry(name).ordering, SCENARIO, workers=2).everything:
            found.update(record.to_line().encode())
    return found.hexdigest()


def test_two_processes_with_different_hash_seeds_record_the_same() -> None:
    code = "from simulation.test_hash_seeds import digest; print(digest())"
    digests = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(TESTS)}
        done = subprocess.run(  # our own interpreter and code
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.append(done.stdout)

    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == 64

"""Both cores kept busy by something else: no safe ordering is called violated, whatever its size.

`TEARDOWN_BUSY_RUNS` says how often each is run; 100 of them take hours.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.tools.cli import Place, teardown

from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.long, pytest.mark.rabbitmq, pytest.mark.timeout(6 * 3600)]

RUNS = int(os.environ.get("TEARDOWN_BUSY_RUNS", "3"))


def _is_safe(name: str) -> bool:
    expected = catalogue_entry(name).expected(Scenario())
    return expected is not None and tuple(map(str, expected.run)) == ("safe",)


SAFE = [name for name in catalogue_names() if _is_safe(name)]


@pytest.fixture(scope="module", autouse=True)
def busy_cores() -> Iterator[None]:
    """Two processes that do nothing but compute, for at most six hours."""
    spin = "import time\nend = time.monotonic() + 21600\nwhile time.monotonic() < end: pass"
    spinning = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2)]
    try:
        yield
    finally:
        for each in spinning:
            each.kill()
            each.wait()


def verdicts(place: Place, ordering: str, *shape: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(RUNS):
        run = ("run", ordering, "--json", "--timeout", "1200", *shape)
        done = teardown(place, *run, seconds=1500)
        is_judged = done.returncode in (0, 1, 3)
        found[json.loads(done.stdout)["verdict"] if is_judged else done.stderr[-300:]] += 1
    return found


@pytest.mark.parametrize("name", SAFE)
def test_a_safe_ordering_is_never_called_violated(tmp_path: Path, name: str) -> None:
    found = verdicts(Place(tmp_path), name)

    print(name, dict(found))
    assert found["violated"] == 0


@pytest.mark.parametrize("vcpus", [64, 256, 400])
def test_a_large_vm_is_never_called_violated(tmp_path: Path, vcpus: int) -> None:
    found = verdicts(Place(tmp_path), "unload-in-destroy", "--vcpus", str(vcpus))

    print(vcpus, dict(found))
    assert found["violated"] == 0

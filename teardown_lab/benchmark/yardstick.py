"""The yardstick's processes: one raw manager, some raw workers, started and ended."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from teardown_lab.benchmark.clients import BenchFailed
from teardown_lab.leftovers.run_folder import RunFolder
from vm_protocol import topology

RAW_MANAGER: Final = "yardstick-manager"
_MANAGER_MODULE: Final = "teardown_lab.benchmark.raw_manager"
_WORKER_MODULE: Final = "teardown_lab.benchmark.raw_worker"


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Pids of the yardstick's processes, by name."""

    pids: dict[str, int]


@contextmanager
def yardstick(url: str, workers: int, run: RunFolder) -> Iterator[Yardstick]:
    """Start the yardstick on a broker that has our exchanges, and end it.

    Raises:
        BenchFailed: One of its processes ended while it started.
    """
    names = [f"yardstick-{number + 1}" for number in range(workers)]
    run.add_queues(url, _queues([RAW_MANAGER, *names]))
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in names:
            children[name] = _spawn(run, name, _WORKER_MODULE, url, name, RAW_MANAGER)
        children[RAW_MANAGER] = _spawn(run, RAW_MANAGER, _MANAGER_MODULE, url, RAW_MANAGER, *names)
        for name, child in children.items():
            assert child.stdout is not None, "started with a pipe"
            if child.stdout.readline() != b"ready\n":
                raise BenchFailed(f"{name} of the yardstick does not start")
        yield Yardstick({name: child.pid for name, child in children.items()})
    finally:
        for child in children.values():
            child.terminate()
        for child in children.values():
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


def _spawn(run: RunFolder, role: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    return run.spawn([sys.executable, "-m", module, *arguments], role, stdout=subprocess.PIPE)


def _queues(names: list[str]) -> list[str]:
    made = [topology.client_replies(RAW_MANAGER).name]
    for name in names:
        made += [topology.worker_commands(name).name, topology.worker_replies(name).name]
    return made

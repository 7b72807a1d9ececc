"""The command line as users have it: `teardown` in a process of its own."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from integration.tools.log import Log

from teardown_lab.leftovers.processes import ProcessIdentity, carrying
from teardown_lab.leftovers.run_record import RUN_VARIABLE

PROGRAM = [sys.executable, "-m", "teardown_lab"]
SECONDS = 120


@dataclass(frozen=True)
class Place:
    """Where commands run: a working folder, and a folder for runs that nobody else uses."""

    folder: Path

    @property
    def runs(self) -> Path:
        """The folder that holds one folder for each living or killed run."""
        return self.folder / "tmp" / f"teardown-lab-{os.getuid()}"

    def run_ids(self) -> list[str]:
        """Return the ids of runs that have a folder."""
        return sorted(each.name for each in self.runs.iterdir()) if self.runs.exists() else []

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Return an environment without the machine's own broker."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        inherited = {key: value for key, value in os.environ.items() if key != "AMQP_URL"}
        return {**inherited, "TMPDIR": str(self.folder / "tmp"), **more}


def teardown(
    place: Place, *arguments: str, seconds: float = SECONDS, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=place.folder,
        env=place.environment(more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@dataclass
class Running:
    """A command that runs: its process, its stderr as log lines, its run's id."""

    process: subprocess.Popen[bytes]
    log: Log
    place: Place

    def text(self) -> str:
        """Return stderr so far."""
        return "\n".join(str(line.get("line", line)) for line in self.log.lines)


@contextmanager
def running(place: Place, *arguments: str, **more: str) -> Iterator[Running]:
    """Start a command; it is killed at the end if it has not ended by then."""
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=place.folder,
        env=place.environment(more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    log = Log()

    def read() -> None:
        for line in process.stderr or ():
            log(line.decode(errors="replace").rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield Running(process, log, place)
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


def processes_of(run_id: str) -> list[ProcessIdentity]:
    """Return the living processes that a run has started."""
    return carrying(RUN_VARIABLE, run_id)

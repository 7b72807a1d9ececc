"""Managers and workers as processes of a test's own: killed, paused, replaced, with their logs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READY_S = 30.0


class Host:
    """Starts services on a broker; whatever still runs is ended with it."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._count = 0
        self.crash_file = folder / "crash"
        self.managers: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []

    def _spawn(self, module: str, **settings: str) -> subprocess.Popen[bytes]:
        self._count += 1
        log = self._folder / f"{module}-{self._count}.log"
        environment = {
            **os.environ, **settings, "AMQP_URL": self._url, "LOG_LEVEL": "info",
            "METRICS_PORT": "0", "TEARDOWN_CRASH_FILE": str(self.crash_file),
        }  # fmt: skip
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", module], env=environment, stdout=out, stderr=out
            )
        deadline = time.monotonic() + READY_S
        while b"service.ready" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return process

    def manager(self) -> subprocess.Popen[bytes]:
        """Start one more manager; the first that was started and lives is the active one."""
        self.managers.append(self._spawn("vm_manager", REPLICA=f"m-{self._count}"))
        return self.managers[-1]

    def worker(self, name: str, capacity: int = 256) -> subprocess.Popen[bytes]:
        """Start a worker."""
        process = self._spawn("vcpu_worker", WORKER_ID=name, WORKER_CAPACITY=str(capacity))
        self.workers.append(process)
        return process

    def reap(self) -> int:
        """Forget the managers that have ended; return how many."""
        gone = [each for each in self.managers if each.poll() is not None]
        self.managers = [each for each in self.managers if each.poll() is None]
        return len(gone)

    def stop(self) -> None:
        """End all of them."""
        processes = [*self.managers, *self.workers]
        for each in processes:
            if each.poll() is None:
                each.send_signal(signal.SIGCONT)
                each.terminate()
        for each in processes:
            try:
                each.wait(10)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()


@contextmanager
def host(url: str, folder: Path) -> Iterator[Host]:
    """Give a host without services; all that it has started ends with it."""
    made = Host(url, folder)
    try:
        yield made
    finally:
        made.stop()

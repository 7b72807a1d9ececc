"""One service as a process of its own, with its log."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from integration.tools.log import Log


@contextmanager
def service(module: str, url: str, log: Log, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a service; it is killed at the end if it has not ended by then."""
    environment = {**os.environ, "AMQP_URL": url, "METRICS_PORT": "0", "LOG_LEVEL": "info"}
    command = [sys.executable, "-m", module]
    with started(command, {**environment, **settings}, log) as process:
        yield process


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], log: Log
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a service by its command, in this environment and no other."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None

    def read() -> None:
        for line in process.stderr or ():
            log(line.decode(errors="replace").rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()

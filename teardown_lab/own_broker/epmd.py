"""Erlang's name service, on a port of loopback, for the nodes of one run and nobody else's."""

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from teardown_lab.broker.address import listens
from teardown_lab.broker.errors import BrokerUnavailable
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.node_settings import epmd_program

_SECONDS_MAX = 10.0
_POLL_SECONDS = 0.01


class Epmd:
    """An epmd as our own child: the one that a node starts for itself would outlive it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Tell whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(
        self, run: RunFolder, port: int, output: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it and wait until it listens; one that runs already is left as it is.

        Args:
            run: Where the process is recorded.
            port: The port of 127.0.0.1.
            output: The file that gets what it prints.
            environment: Its variables; ours if not given.

        Raises:
            BrokerUnavailable: It is not installed, or ended, as it does if its port is taken.
        """
        if self.is_running:
            return
        program = epmd_program()
        with output.open("wb") as file:
            self._process = run.spawn(
                [program, "-port", str(port), "-address", "127.0.0.1"],
                "epmd",
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _SECONDS_MAX
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                said = output.read_text(encoding="utf-8", errors="replace").strip()
                raise BrokerUnavailable(
                    f"{program} ended with {self._process.returncode}, as it does when its port "
                    f"({port}) is already in use: {said or 'it does not say why'}"
                )
            if listens(port):
                return
            time.sleep(_POLL_SECONDS)
        raise BrokerUnavailable(f"{program} does not listen on port {port}")

    def stop(self) -> None:
        """End it; a second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

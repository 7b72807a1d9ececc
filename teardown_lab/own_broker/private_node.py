"""A private RabbitMQ node: an installed rabbitmq-server on free loopback ports, in its own folder.

It shares nothing with the machine's own broker: no port, no data, no cookie, no settings. It needs
no rabbitmqctl; being ready is judged by an AMQP connection.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from teardown_lab.broker.address import listens, server_properties
from teardown_lab.broker.errors import BrokerUnavailable
from teardown_lab.leftovers.processes import descendants, end
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.code_path import short_code_path
from teardown_lab.own_broker.epmd import Epmd
from teardown_lab.own_broker.node_settings import (
    Membership,
    NodePorts,
    free_ports,
    make_folders,
    new_cookie,
    node_environment,
    server_script,
    write_config,
)

__all__ = ["PrivateNode", "server_script"]

NODE_START_SECONDS_MAX = 60.0
_GRACEFUL_SECONDS_MAX = 15.0
_ATTEMPTS_MAX = 3
_LOG_LINES = 25
_POLL_SECONDS = 0.05
_TAKEN_SECONDS = 0.5
_ERROR = "[error]"
_STAMP = re.compile(r"^[-0-9]+ [:.0-9]+(\+00:00)? (?=\[)")
_PORT_TAKEN = re.compile(
    r"eaddrinuse|already in use|already_used|register/listen error|could not bind", re.I
)
_KNOCK_SECONDS_MAX = 2.0

_numbers = itertools.count(1)


def new_name() -> str:
    """Return a name that no other node of this machine has."""
    return f"teardown-{os.getpid()}-{next(_numbers)}"


class PrivateNode:
    """A RabbitMQ node of our own, as a context manager: started on entry, removed on exit.

    Args:
        run: The run that the node belongs to; without one the node has a run of its own, so that
            `teardown cleanup` finds it too if we are killed.
        config: More lines for rabbitmq.conf.
        plugins: The plugins to enable, such as rabbitmq_prometheus.
        environment: More variables for the node, such as RABBITMQ_*; they win over ours.
        membership: Of a node in a cluster: what it shares with the others, whose epmd runs.
        start_seconds_max: How long a start may take.
    """

    def __init__(
        self,
        *,
        run: RunFolder | None = None,
        config: Sequence[str] = (),
        plugins: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        membership: Membership | None = None,
        start_seconds_max: float = NODE_START_SECONDS_MAX,
    ) -> None:
        self._given_run = run
        self._own_run: RunFolder | None = None
        self._config = tuple(config)
        self._plugins = tuple(plugins)
        self._code_path: dict[str, str] = {}
        self._environment = dict(environment or {})
        self._start_seconds_max = start_seconds_max
        self._membership = membership
        self._name = membership.name if membership else new_name()
        self._folder: Path | None = None
        self._ports: NodePorts | None = None
        self._epmd = Epmd()
        self._node: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The broker's URL; it stays the same over `restart`, and `kill` with `start`."""
        return f"amqp://guest:guest@127.0.0.1:{self._known_ports().amqp}/%2F"

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 that the broker listens on."""
        return self._known_ports().amqp

    @property
    def folder(self) -> Path:
        """The folder with the node's data, log and settings."""
        if self._folder is None:
            raise BrokerUnavailable(f"the private node {self._name} is not started: call start()")
        return self._folder

    @property
    def pid(self) -> int:
        """The pid of the node's Erlang VM."""
        if self._node is None:
            raise BrokerUnavailable(f"the private node {self._name} is not running: call start()")
        return self._node.pid

    @property
    def is_running(self) -> bool:
        """Tell whether the node's process runs."""
        return self._node is not None and self._node.poll() is None

    @property
    def variables(self) -> dict[str, str]:
        """The environment of the node, and of the broker's tools that speak to it."""
        ours = node_environment(self._name, self.folder, self._known_ports())
        return {**ours, **self._code_path, **self._environment}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the node and wait until it answers; after `kill`, on the same data and port.

        Raises:
            BrokerUnavailable: rabbitmq-server is not installed, does not start in time or dies;
                the text has the end of its log. Nothing is left of the attempt, unless the node
                was killed before: then its data stays until `stop`.
            RunFolderError: The folder for runs cannot be used.
        """
        if self.is_running:
            raise BrokerUnavailable(f"the private node {self._name} runs already")
        is_new = self._folder is None
        try:
            if is_new:
                self._make_folder()
            self._start_on_ports(is_new)
        except BaseException:
            if is_new:
                self.stop()
            else:
                self._end_node(grace_seconds=0)
            raise

    def stop(self) -> None:
        """End the node at once and remove all of it; a second call does nothing."""
        # The data is thrown away, so nothing is gained by a graceful end.
        self._end_node(grace_seconds=0)
        self._epmd.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._ports = None
        if self._own_run is not None:
            self._own_run.close()
            self._own_run = None

    def kill(self) -> None:
        """Kill the node as a power failure would; `start` brings it back on the same data."""
        self._end_node(grace_seconds=0)

    def shut_down(self) -> None:
        """End the node in order, by SIGTERM; `start` brings it back on the same data."""
        self._end_node(grace_seconds=_GRACEFUL_SECONDS_MAX)

    def restart(self) -> None:
        """Shut the node down in order and start it again on the same data and port.

        Raises:
            BrokerUnavailable: As `start` does.
        """
        self.shut_down()
        self.start()

    def log_tail(self, line_count: int = _LOG_LINES) -> str:
        """Return the first errors of what the node printed and logged, and its last lines."""
        lines = [_STAMP.sub("", line).rstrip() for line in self._log_text().splitlines()]
        lines = [line for line in lines if line]
        # A failure is named first, and buried under Erlang's report of the crash then.
        first = next((i for i, line in enumerate(lines) if _ERROR in line), len(lines))
        named = lines[first : first + line_count // 2]
        last = lines[first + len(named) :][-(line_count - len(named)) :] if named else lines
        shown = [*named, *last[-line_count:]]
        return "\n".join(f"  | {line}" for line in shown) or "  | (it printed nothing)"

    def _log_text(self) -> str:
        text = ""
        for name in ("output.txt", "log/node.log"):
            with contextlib.suppress(OSError, BrokerUnavailable):
                text += (self.folder / name).read_text(encoding="utf-8", errors="replace") + "\n"
        return text

    def _known_ports(self) -> NodePorts:
        if self._ports is None:
            raise BrokerUnavailable(f"the private node {self._name} is not started: call start()")
        return self._ports

    def _run(self) -> RunFolder:
        run = self._given_run or self._own_run
        assert run is not None, "a node that is started has a run"
        return run

    def _make_folder(self) -> None:
        if self._given_run is None:
            self._own_run = RunFolder().open()
        self._folder = Path(tempfile.mkdtemp(prefix="rabbitmq-", dir=self._run().path))
        cookie = self._membership.cookie if self._membership else new_cookie()
        make_folders(self._folder, cookie, self._plugins)

    def _start_on_ports(self, is_new: bool) -> None:
        script = server_script()
        if script is None:
            raise BrokerUnavailable(
                "rabbitmq-server is not installed: apt-get install rabbitmq-server (or your "
                "system's package), set AMQP_URL to a broker, or use --broker simulated"
            )
        if is_new and not self._plugins:
            self._code_path = short_code_path(script, self.folder)
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            if is_new:
                self._ports = self._new_ports()
            try:
                self._refuse_taken_ports()
                if self._membership is None:
                    output = self.folder / "epmd.txt"
                    port = self._known_ports().epmd
                    self._epmd.start(self._run(), port, output, self.variables)
                self._start_node(script)
                self._wait_ready()
            except BrokerUnavailable as error:
                self._end_node(grace_seconds=0)
                if is_new:
                    self._epmd.stop()
                # Somebody took a port between our look and the node's start: look again.
                is_taken = _PORT_TAKEN.search(f"{error}\n{self._log_text()}")
                if attempt == _ATTEMPTS_MAX or not is_taken:
                    raise
                time.sleep(0 if is_new else _TAKEN_SECONDS)
            else:
                return

    def _new_ports(self) -> NodePorts:
        ports = free_ports()
        return replace(ports, epmd=self._membership.epmd_port) if self._membership else ports

    def _refuse_taken_ports(self) -> None:
        ports = self._known_ports()
        is_epmd_ours = self._membership is not None or self._epmd.is_running
        for port in (ports.amqp, ports.distribution, *([] if is_epmd_ours else [ports.epmd])):
            if listens(port):
                raise BrokerUnavailable(
                    f"port {port} of 127.0.0.1, which the private node {self._name} was to have, "
                    "is already in use: end the program that listens there"
                )

    def _start_node(self, script: Path) -> None:
        joining = self._membership.config() if self._membership else ()
        write_config(self.folder, self.port, (*joining, *self._config))
        with (self.folder / "output.txt").open("wb") as file:
            self._node = self._run().spawn(
                [script],
                "rabbitmq-server",
                env=self.variables,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,  # where Mnesia writes its core files
            )

    def _wait_ready(self) -> None:
        assert self._node is not None, "the node was started"
        deadline = time.monotonic() + self._start_seconds_max
        reason = f"nothing listens on port {self.port}"
        while time.monotonic() < deadline:
            if self._node.poll() is not None:
                raise BrokerUnavailable(
                    f"the private RabbitMQ node {self._name} ended while it started, with "
                    f"{self._node.returncode}; the end of its log:\n{self.log_tail()}"
                )
            if listens(self.port):
                try:
                    server = server_properties(self.url, seconds_max=_KNOCK_SECONDS_MAX)
                except BrokerUnavailable as error:
                    reason = str(error)
                else:
                    # A cluster has the name of its first node, so this tells our node from one
                    # that was quicker to take the port.
                    if str(server.get("cluster_name")).startswith(f"{self._name}@"):
                        self._run().own_broker(self.url)
                        return
                    reason = f"another broker answers on port {self.port}, which is already in use"
            time.sleep(_POLL_SECONDS)
        raise BrokerUnavailable(
            f"the private RabbitMQ node {self._name} does not answer after "
            f"{self._start_seconds_max:.0f} s ({reason}); the end of its log:\n{self.log_tail()}"
        )

    def _end_node(self, *, grace_seconds: float) -> None:
        node, self._node = self._node, None
        if node is None:
            return
        # The VM's helpers have sessions of their own and end with it; that is waited for.
        helpers = descendants(node.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if grace_seconds > 0:
                node.terminate()
                node.wait(timeout=grace_seconds)
        with contextlib.suppress(ProcessLookupError):
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
        node.wait()
        # SIGTERM does not hurry them: they end when they see that the VM has gone.
        end(helpers, grace_seconds=1.0)

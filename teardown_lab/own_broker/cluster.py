"""A cluster of private RabbitMQ nodes on loopback: started in parallel, removed at the end.

The nodes share an epmd, a cookie and a run, so `teardown cleanup` finds the cluster of a killed
owner as it finds a single node.
"""

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Self
from urllib.parse import urlsplit

from teardown_lab.broker.errors import BrokerUnavailable
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.epmd import Epmd
from teardown_lab.own_broker.node_settings import (
    Membership,
    control_environment,
    free_ports,
    new_cookie,
    server_script,
)
from teardown_lab.own_broker.private_node import PrivateNode, new_name

CLUSTER_START_SECONDS_MAX = 240.0
"""Nodes wait for each other, and start at once: on two slow cores that takes a minute."""

CONTROL_SECONDS_MAX = 120.0
_EPMD_ATTEMPTS_MAX = 3


class PrivateCluster:
    """RabbitMQ nodes that form a cluster, as a context manager.

    Args:
        size: How many nodes; three go on with two of them.
        run: The run that the nodes belong to; without one the cluster has a run of its own.
        config: More lines for every node's rabbitmq.conf.
    """

    def __init__(
        self, size: int = 3, *, run: RunFolder | None = None, config: Sequence[str] = ()
    ) -> None:
        self._size = size
        self._given_run = run
        self._config = tuple(config)
        self._stack = ExitStack()
        self.nodes: tuple[PrivateNode, ...] = ()

    @property
    def url(self) -> str:
        """One URL with the hosts of all nodes, as services take it."""
        first = urlsplit(self.nodes[0].url)
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return first._replace(netloc=f"{first.username}:{first.password}@{hosts}").geturl()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all nodes and wait until they have found each other.

        Raises:
            BrokerUnavailable: A node does not start, or does not join in time; nothing is left.
            RunFolderError: The folder for runs cannot be used.
        """
        with ExitStack() as stack:
            run = self._given_run or stack.enter_context(RunFolder())
            epmd = Epmd()
            stack.callback(epmd.stop)
            port = _started(epmd, run)
            names = tuple(new_name() for _ in range(self._size))
            cookie = new_cookie()
            self.nodes = tuple(
                PrivateNode(
                    run=run,
                    config=self._config,
                    membership=Membership(name, names, port, cookie),
                    start_seconds_max=CLUSTER_START_SECONDS_MAX,
                )
                for name in names
            )
            for node in self.nodes:
                stack.callback(node.stop)
            with ThreadPoolExecutor(self._size) as pool:
                for started in [pool.submit(node.start) for node in self.nodes]:
                    started.result()
            self.control(self.nodes[0], "await_online_nodes", str(self._size))
            run.own_broker(self.url)
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """End all nodes at once and remove all of them; a second call does nothing."""
        self._stack.close()
        self.nodes = ()

    def control(self, node: PrivateNode, *command: str) -> str:
        """Run a command of `rabbitmqctl` against a node, and return what it prints.

        Raises:
            BrokerUnavailable: It fails, or takes longer than CONTROL_SECONDS_MAX.
        """
        return self._tool("rabbitmqctl", node, command)

    def queues_control(self, node: PrivateNode, *command: str) -> str:
        """Do as `control` does, with `rabbitmq-queues`."""
        return self._tool("rabbitmq-queues", node, command)

    def _tool(self, name: str, node: PrivateNode, command: tuple[str, ...]) -> str:
        script = server_script()
        assert script is not None, "the node was started by it"
        try:
            done = subprocess.run(
                [str(script.with_name(name)), "--quiet", *command],
                env=control_environment(node.variables, free_ports().distribution),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CONTROL_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerUnavailable(f"{name} {command[0]} does not end") from error
        if done.returncode != os.EX_OK:
            said = (done.stderr or done.stdout).strip()
            raise BrokerUnavailable(f"{name} {command[0]} fails: {said}")
        return done.stdout


def _started(epmd: Epmd, run: RunFolder) -> int:
    """Start epmd on a port that is free; another program may take it in between."""
    for attempt in range(1, _EPMD_ATTEMPTS_MAX + 1):
        port = free_ports().epmd
        try:
            epmd.start(run, port, run.path / "epmd.txt")
        except BrokerUnavailable:
            epmd.stop()
            if attempt == _EPMD_ATTEMPTS_MAX:
                raise
        else:
            break
    return port

"""The programs, ports, files and variables of a private RabbitMQ node; nothing here starts it."""

import contextlib
import os
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from teardown_lab.broker.errors import BrokerUnavailable

# Debian's rabbitmq-server on the PATH is a wrapper that changes the user; this one is the real one.
_DEBIAN_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/sbin")
_FOREIGN = ("RABBITMQ_", "ERL_", "ERLANG_")
# A mostly idle node must not spin; and nobody reaches its distribution from outside.
_ERLANG_ARGUMENTS = (
    "+sbwt none +sbwtdcpu none +sbwtdio none -noinput -kernel inet_dist_use_interface {127,0,0,1}"
)
_CONFIG = (
    "listeners.tcp.1 = 127.0.0.1:{port}",
    "num_acceptors.tcp = 4",
    # Neither a small disk nor a small machine may block publishers.
    "disk_free_limit.absolute = 50MB",
    "vm_memory_high_watermark.relative = 0.8",
)


@dataclass(frozen=True, slots=True)
class NodePorts:
    """The ports of 127.0.0.1 that a node listens on."""

    amqp: int
    distribution: int
    epmd: int


def server_script() -> Path | None:
    """Return the installed rabbitmq-server script that starts a node as this user, if any."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])
    found = shutil.which("rabbitmq-server", path=path)
    candidates = [_DEBIAN_SCRIPT, *([Path(found).resolve()] if found else [])]
    for script in candidates:
        # The real script reads its neighbour; a wrapper has none.
        if script.is_file() and script.with_name("rabbitmq-env").is_file():
            return script
    return None


def epmd_program() -> Path:
    """Return Erlang's name service program.

    Raises:
        BrokerUnavailable: It is neither on the PATH nor beside `erl`.
    """
    found = shutil.which("epmd")
    erl = shutil.which("erl")
    beside = [Path(erl).resolve().with_name("epmd")] if erl else []
    for program in [*([Path(found)] if found else []), *beside]:
        if program.is_file():
            return program
    raise BrokerUnavailable("Erlang's `epmd` is not on the PATH: is Erlang installed completely?")


@dataclass(frozen=True, slots=True)
class Membership:
    """What a node of a cluster has in common with the others; `name` is its own of `names`.

    The nodes find each other when they first start (RabbitMQ: cluster-formation, "classic config
    peer discovery"): no `rabbitmqctl join_cluster`, and it does not matter who starts first.
    """

    name: str
    names: tuple[str, ...]
    epmd_port: int
    cookie: str

    def config(self) -> tuple[str, ...]:
        """Return the lines of rabbitmq.conf that make a cluster of the nodes.

        Of three nodes two go on, and one that sees no other pauses (RabbitMQ: partitions).
        """
        nodes = (
            f"cluster_formation.classic_config.nodes.{number} = {name}@localhost"
            for number, name in enumerate(self.names, start=1)
        )
        return (
            "cluster_formation.peer_discovery_backend = classic_config",
            "cluster_partition_handling = pause_minority",
            *nodes,
        )


def free_ports() -> NodePorts:
    """Return ports that are free now; another program may take one before the node does."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(3):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports.append(int(listener.getsockname()[1]))
    return NodePorts(*ports)


def new_cookie() -> str:
    """Return a secret by which Erlang nodes know each other."""
    return secrets.token_hex(20)


def make_folders(folder: Path, secret: str, plugins: Sequence[str]) -> None:
    """Make the folders and lasting files of a new node; `secret` is its Erlang cookie."""
    for name in ("home", "log", "mnesia", "conf.d", "plugins", "generated", "schema"):
        (folder / name).mkdir()
    (folder / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n", encoding="ascii")
    (folder / "rabbitmq-env.conf").write_text("", encoding="ascii")
    cookie = folder / "home" / ".erlang.cookie"
    cookie.write_text(secret, encoding="ascii")
    cookie.chmod(0o400)


def write_config(folder: Path, port: int, more_lines: Sequence[str]) -> None:
    """Write the node's rabbitmq.conf."""
    lines = [*(line.format(port=port) for line in _CONFIG), *more_lines, ""]
    (folder / "rabbitmq.conf").write_text("\n".join(lines), encoding="utf-8")


def node_environment(name: str, folder: Path, ports: NodePorts) -> dict[str, str]:
    """Return the variables of a node: ours, with nothing of another RabbitMQ or Erlang in them."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    return {
        **inherited,
        "HOME": str(folder / "home"),
        "LC_ALL": "C.UTF-8",
        "ERL_CRASH_DUMP": os.devnull,
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        # With input allowed (there is none) the script becomes the VM instead of watching it.
        "RABBITMQ_ALLOW_INPUT": "true",
        "RABBITMQ_NODENAME": f"{name}@localhost",
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG_ARGUMENTS,
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
        "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_PLUGINS_EXPAND_DIR": str(folder / "plugins"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_MNESIA_DIR": str(folder / "mnesia" / "node"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": str(folder / "log" / "node.log"),
        "RABBITMQ_PID_FILE": str(folder / "node.pid"),
    }


def control_environment(node: Mapping[str, str], port: int) -> dict[str, str]:
    """Return the variables of the broker's tools: a node's own, and a port for the tool's Erlang.

    By itself it listens on every address, 10,000 above the node's port, which may be no port.
    """
    ports = ("RABBITMQ_CTL_DIST_PORT_MIN", "RABBITMQ_CTL_DIST_PORT_MAX")
    return {
        **node,
        **dict.fromkeys(ports, str(port)),
        "RABBITMQ_CTL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }

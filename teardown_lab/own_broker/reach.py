"""Where a container's published port is reached from here: testcontainers' own rule.

The engine may be another host's (DOCKER_HOST), and this process may itself run in a container:
then 127.0.0.1 is not where the engine publishes.

Source: testcontainers-python, `DockerClient.host` and `DockerContainer.get_container_host_ip`.
"""

import ipaddress
import os
import secrets
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

OVERRIDES: Final = ("TC_HOST", "TESTCONTAINERS_HOST_OVERRIDE")
"""Variables that name the host; they beat everything else."""

DOCKER_VARIABLE: Final = "DOCKER_HOST"
LOCAL: Final = "127.0.0.1"
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - the port of a host that is not this one
_ANSWER_SECONDS: Final = 10.0
_LOCAL_NAMES: Final = ("", "localhost", LOCAL, "::1")


@dataclass(frozen=True, slots=True)
class Reach:
    """A host to connect to, and the address of the engine's host that a port is published on."""

    host: str
    publish: str

    @property
    def is_local(self) -> bool:
        """Tell whether nobody but this host can reach the port."""
        return self.publish == LOCAL

    def password(self) -> str:
        """Return a password for the broker: nobody else can guess it where others reach it."""
        return "guest" if self.is_local else secrets.token_hex(16)


def reach_of(
    environment: Mapping[str, str], *, beside_engine: bool | None = None, gateway: str | None = None
) -> Reach:
    """Return how containers of the engine that an environment names are reached.

    Args:
        environment: With TC_HOST or TESTCONTAINERS_HOST_OVERRIDE, and DOCKER_HOST.
        beside_engine: Whether this process runs where the engine does, not in a container of its;
            None: look.
        gateway: The address of the container's host; None: look.
    """
    for variable in OVERRIDES:
        if environment.get(variable):
            return _at(environment[variable])
    parts = urlsplit(environment.get(DOCKER_VARIABLE, ""))
    if parts.scheme in ("tcp", "http", "https", "ssh"):
        return _at(parts.hostname or "")
    if _is_beside_engine() if beside_engine is None else beside_engine:
        return Reach(LOCAL, LOCAL)
    found = _default_gateway() if gateway is None else gateway
    return Reach(found, found) if found else Reach(LOCAL, LOCAL)


def _at(host: str) -> Reach:
    return Reach(LOCAL, LOCAL) if host in _LOCAL_NAMES else Reach(host, _EVERYWHERE)


def _is_beside_engine() -> bool:
    """Tell whether the engine runs where this process does, also if both are in a container."""
    if not Path("/.dockerenv").exists():
        return True
    program = shutil.which("docker")
    if program is None:
        return False
    try:
        done = subprocess.run(
            [program, "info", "--format", "{{.Name}}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == socket.gethostname()


def _default_gateway() -> str:
    """Return the address that the kernel routes by default to; empty: there is none."""
    try:
        lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return ""
    for line in lines:
        _, destination, gateway, *_ = line.split()
        if destination == "00000000" and gateway != "00000000":
            return str(ipaddress.IPv4Address(struct.pack("=L", int(gateway, 16))))
    return ""


def reach() -> Reach:
    """Return how containers are reached from this process."""
    return reach_of(os.environ)

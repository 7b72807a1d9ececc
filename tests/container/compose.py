"""The stack of docker-compose.yml under a name, ports and secrets of its own."""

import json
import os
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
UP_SECONDS = 300
PORTS = ("AMQP", "MANAGEMENT", "PROMETHEUS")


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that are free now."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


def docker(*arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a docker command to its end."""
    return subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def inspected(name: str) -> dict[str, Any]:
    """Return what the engine says of a container or image."""
    done = docker("inspect", name)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


@dataclass(frozen=True)
class Compose:
    """One project: its name, the folder for what its client needs, its ports, its image."""

    project: str
    secrets: Path
    ports: dict[str, int]
    image: str

    @classmethod
    def prepared(cls, folder: Path) -> "Compose":
        """Say in an environment file what keeps it apart from others on this machine."""
        project = f"teardown-test-{os.getpid()}"
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        compose = cls(project, folder / "secrets", ports, f"{project}-image")
        compose.secrets.mkdir()
        lines = [f"TEARDOWN_IMAGE={compose.image}", f"TEARDOWN_SECRETS={compose.secrets}"]
        lines += [f"TEARDOWN_{name}_PORT={port}" for name, port in ports.items()]
        compose.environment.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return compose

    @property
    def environment(self) -> Path:
        """The file that `docker compose` reads for us."""
        return self.secrets.parent / "stack.env"

    @property
    def url(self) -> str:
        """The client's URL, password included."""
        return (self.secrets / "client.url").read_text(encoding="ascii").strip()

    def copy_secrets(self, folder: Path) -> None:
        """Copy what the set-up has made, for each reader a folder: as root of the engine can."""
        self.must("cp", "setup:/secrets/.", str(folder))

    def run(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a `docker compose` command of this project."""
        given = ("compose", "--env-file", str(self.environment), "--project-name", self.project)
        return docker(*given, *arguments, seconds=seconds)

    def must(self, *arguments: str, seconds: float = 120) -> str:
        """Run a command that succeeds, and return what it prints."""
        done = self.run(*arguments, seconds=seconds)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr[-3000:]}"
        return done.stdout

    def up(self, *arguments: str) -> None:
        """Bring the stack up and wait until all of it is healthy."""
        done = self.run("up", "--detach", "--wait", *arguments, seconds=UP_SECONDS)
        logs = "" if done.returncode == 0 else self.run("logs", "--tail", "15").stdout
        assert done.returncode == 0, f"{done.stderr[-3000:]}\n{logs}"

    def down(self) -> None:
        """Remove it with its volumes, and the image that was built for it."""
        self.run("down", "--volumes", "--timeout", "5")
        docker("image", "rm", "--force", self.image)

    def containers(self, service: str = "", *, stopped: bool = False) -> list[str]:
        """Return the ids of a service's containers."""
        more = ["--all"] if stopped else []
        return self.must("ps", "--quiet", *more, *([service] if service else [])).split()

    def metric(self, container: str, name: str) -> float:
        """Return a metric without labels, as one container's service tells it."""
        page = ("python", "-I", "/opt/teardown/healthcheck.py", "/metrics", name)
        return float(docker("exec", container, *page).stdout.split()[-1])

    def active_manager(self) -> str:
        """Return the container whose manager takes commands; there is one after the first."""
        (active,) = (
            container
            for container in self.containers("vm-manager")
            if self.metric(container, "teardown_manager_elected") == 1
        )
        return active

    def leftovers(self) -> dict[str, list[str]]:
        """Return what the engine still has of this project."""
        label = f"label=com.docker.compose.project={self.project}"
        found = {
            kind: docker(kind, "ls", "--quiet", "--filter", label, *more).stdout.split()
            for kind, more in (("container", ["--all"]), ("volume", []), ("network", []))
        }
        return {kind: names for kind, names in found.items() if names}

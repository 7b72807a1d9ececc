"""A RabbitMQ container through the `docker` command line.

An engine that already answers is used; none is started. The container is published on 127.0.0.1
only, labelled with its run, and removed at the end.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from teardown_lab.broker.address import knock
from teardown_lab.broker.errors import BrokerUnavailable
from teardown_lab.broker.reach import OVERRIDES, reach

IMAGE_VARIABLE = "TEARDOWN_RABBITMQ_IMAGE"
IMAGE_DEFAULT = "rabbitmq:4-management"
LABEL = "teardown-lab.run"
START_SECONDS_MAX = 90.0
PULL_SECONDS_MAX = 600.0
_COMMAND_SECONDS_MAX = 30.0
_NAME = "teardown-lab"


class ImageUnavailable(BrokerUnavailable):
    """The engine answers, but it neither has the image nor can get it."""


class RunWithContainers(Protocol):
    """What a container needs of a run: its name, and a place to be recorded."""

    @property
    def run_id(self) -> str:
        """The run's name, for the label."""
        ...

    def add_container(self, name_or_id: str) -> None:
        """Record a container of the run."""
        ...

    def own_broker(self, url: str) -> None:
        """Tell that a broker is the run's own."""
        ...


def image_name() -> str:
    """Return the image to use: TEARDOWN_RABBITMQ_IMAGE, else the default one."""
    return os.environ.get(IMAGE_VARIABLE) or IMAGE_DEFAULT


def engine_answers(*, seconds_max: float = 5.0) -> bool:
    """Tell whether `docker` is installed and its engine answers soon."""
    if shutil.which("docker") is None:
        return False
    try:
        version = ["version", "--format", "{{.Server.Version}}"]
        return _docker(*version, seconds_max=seconds_max).returncode == 0
    except BrokerUnavailable:
        return False


@contextmanager
def rabbitmq_container(run: RunWithContainers, image: str = "") -> Iterator[str]:
    """Run a RabbitMQ container, of `image_name()` by default, and give the URL of its broker.

    Raises:
        ImageUnavailable: The image is not there and cannot be pulled.
        BrokerUnavailable: The container does not start, or its broker does not answer in time.
    """
    image = image or image_name()
    _have_image(image)
    reached = reach()
    password = reached.password()
    name = f"{_NAME}-{run.run_id}"
    # Recorded before it exists: a run that is killed meanwhile leaves no nameless container.
    run.add_container(name)
    try:
        _must(
            *("run", "--detach", "--name", name, "--label", f"{LABEL}={run.run_id}"),
            *("--publish", f"{reached.publish}::5672"),
            *([] if reached.is_local else ["--env", f"RABBITMQ_DEFAULT_PASS={password}"]),
            image,
            failure=f"the container of {image} does not start",
        )
        url = f"amqp://guest:{password}@{reached.host}:{_published_port(name)}/%2F"
        _wait_ready(name, image, url)
        run.own_broker(url)
        yield url
    finally:
        remove_container(name)


def remove_container(name_or_id: str) -> bool:
    """Remove a container with its anonymous volumes; False if there is none of that name.

    Raises:
        BrokerUnavailable: The engine does not answer, or it refuses.
    """
    if shutil.which("docker") is None:
        raise BrokerUnavailable("there is no `docker` command to remove it with")
    # `docker rm --force` takes a container that does not exist for removed.
    known = _docker("container", "inspect", "--format", "{{.Id}}", name_or_id)
    if known.returncode != 0 and "no such" in known.stderr.lower():
        return False
    _must("rm", "--force", "--volumes", name_or_id, failure=f"cannot remove container {name_or_id}")
    return True


def _have_image(image: str) -> None:
    if _docker("image", "inspect", "--format", "{{.Id}}", image).returncode == 0:
        return
    pull = _docker("pull", "--quiet", image, seconds_max=PULL_SECONDS_MAX)
    if pull.returncode != 0:
        raise ImageUnavailable(
            f"the image {image} is not here and cannot be pulled ({_last_line(pull.stderr)}): "
            f"load it, or name another in {IMAGE_VARIABLE}"
        )


def _wait_ready(name: str, image: str, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    reason = "nothing listens"
    while time.monotonic() < deadline:
        if not _is_running(name):
            raise BrokerUnavailable(f"the container of {image} has ended; its log:\n{_log(name)}")
        # A published port accepts connections before the broker does.
        try:
            knock(url)
        except BrokerUnavailable as error:
            reason = str(error)
        else:
            return
        time.sleep(0.25)
    raise BrokerUnavailable(
        f"the broker in the container of {image} does not answer after {START_SECONDS_MAX:.0f} s "
        f"({reason}). If the container's host is called otherwise from here, set {OVERRIDES[-1]}; "
        f"the container's log:\n{_log(name)}"
    )


def _published_port(name: str) -> int:
    failure = f"the engine does not say where port 5672 of {name} is published"
    lines = _must("port", name, "5672/tcp", failure=failure).split()
    if not lines or not lines[0].rpartition(":")[2].isdigit():
        raise BrokerUnavailable(f"{failure}; the container's log:\n{_log(name)}")
    return int(lines[0].rpartition(":")[2])


def _is_running(name: str) -> bool:
    state = _docker("container", "inspect", "--format", "{{.State.Running}}", name)
    return state.stdout.strip() == "true"


def _log(name: str) -> str:
    log = _docker("logs", "--tail", "20", name)
    return "\n".join(f"  | {line}" for line in (log.stdout + log.stderr).splitlines()[-20:])


def _must(*arguments: str, failure: str) -> str:
    done = _docker(*arguments)
    if done.returncode != 0:
        raise BrokerUnavailable(f"{failure}: {_last_line(done.stderr)}")
    return done.stdout


def _docker(
    *arguments: str, seconds_max: float = _COMMAND_SECONDS_MAX
) -> subprocess.CompletedProcess[str]:
    program = shutil.which("docker") or "docker"
    try:
        return subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds_max,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerUnavailable(
            f"`docker {arguments[0]}` does not end after {seconds_max:.0f} s: is the engine well?"
        ) from error
    except OSError as error:
        raise BrokerUnavailable(f"`docker` cannot be run: {error}") from error


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"

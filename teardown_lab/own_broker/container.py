"""A RabbitMQ container through the `docker` command line.

An engine that already answers is used; none is started. The container is published on 127.0.0.1
only, labelled with its run, and removed at the end.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from teardown_lab.broker.address import knock
from teardown_lab.broker.errors import BrokerUnavailable
from teardown_lab.leftovers.docker import docker, last_line, must, remove_container
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.reach import OVERRIDES, reach

IMAGE_VARIABLE = "TEARDOWN_RABBITMQ_IMAGE"
IMAGE_DEFAULT = "rabbitmq:4-management"
LABEL = "teardown-lab.run"
CONTAINER_START_SECONDS_MAX = 90.0
PULL_SECONDS_MAX = 600.0
_NAME = "teardown-lab"


class ImageUnavailable(BrokerUnavailable):
    """The engine answers, but it neither has the image nor can get it."""


def image_name() -> str:
    """Return the image to use: TEARDOWN_RABBITMQ_IMAGE, else the default one."""
    return os.environ.get(IMAGE_VARIABLE) or IMAGE_DEFAULT


@contextmanager
def rabbitmq_container(run: RunFolder, image: str = "") -> Iterator[str]:
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
        must(
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


def _have_image(image: str) -> None:
    if docker("image", "inspect", "--format", "{{.Id}}", image).returncode == 0:
        return
    pull = docker("pull", "--quiet", image, seconds_max=PULL_SECONDS_MAX)
    if pull.returncode != 0:
        raise ImageUnavailable(
            f"the image {image} is not here and cannot be pulled ({last_line(pull.stderr)}): "
            f"load it, or name another in {IMAGE_VARIABLE}"
        )


def _wait_ready(name: str, image: str, url: str) -> None:
    deadline = time.monotonic() + CONTAINER_START_SECONDS_MAX
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
        f"the broker in the container of {image} does not answer after "
        f"{CONTAINER_START_SECONDS_MAX:.0f} s ({reason}). If the container's host is called "
        f"otherwise from here, set {OVERRIDES[-1]}; the container's log:\n{_log(name)}"
    )


def _published_port(name: str) -> int:
    failure = f"the engine does not say where port 5672 of {name} is published"
    lines = must("port", name, "5672/tcp", failure=failure).split()
    if not lines or not lines[0].rpartition(":")[2].isdigit():
        raise BrokerUnavailable(f"{failure}; the container's log:\n{_log(name)}")
    return int(lines[0].rpartition(":")[2])


def _is_running(name: str) -> bool:
    state = docker("container", "inspect", "--format", "{{.State.Running}}", name)
    return state.stdout.strip() == "true"


def _log(name: str) -> str:
    log = docker("logs", "--tail", "20", name)
    return "\n".join(f"  | {line}" for line in (log.stdout + log.stderr).splitlines()[-20:])

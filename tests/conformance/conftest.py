"""The brokers of the conformance suite: simulated ones of each version, and real ones.

TEARDOWN_CONFORMANCE_IMAGES names the images for containers, separated by commas.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from conformance.adapter import Session
from conformance.live import Live
from conformance.simulated import Simulated
from teardown_lab.broker.address import knock
from teardown_lab.broker.container import engine_answers, image_name
from teardown_lab.broker.errors import BrokerUnavailable
from teardown_lab.simulator.versions import VERSIONS, BrokerVersion, version_of

IMAGES = (os.environ.get("TEARDOWN_CONFORMANCE_IMAGES") or image_name()).split(",")
START_SECONDS_MAX = 90.0

LIVE = [
    pytest.param("node", marks=pytest.mark.rabbitmq, id="rabbitmq"),
    *(pytest.param(image, marks=pytest.mark.container, id=image) for image in IMAGES),
]
SIMULATED = [pytest.param(version, id=f"simulated-{version.name}") for version in VERSIONS]


class LiveUrls:
    """URLs of real brokers, each started when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest, stack: ExitStack) -> None:
        self._request = request
        self._stack = stack
        self._urls: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the URL of "node" (AMQP_URL or a private node), or of an image's container."""
        if name == "node":
            return str(self._request.getfixturevalue("amqp_url"))
        if name not in self._urls:
            if not engine_answers():
                if os.environ.get("TEARDOWN_REQUIRE_CONTAINERS"):
                    pytest.fail("no container engine, and TEARDOWN_REQUIRE_CONTAINERS is set")
                pytest.skip("no container engine answers")
            self._urls[name] = self._stack.enter_context(_container(name))
        return self._urls[name]


@pytest.fixture(scope="session")
def live_urls(request: pytest.FixtureRequest) -> Iterator[LiveUrls]:
    with ExitStack() as stack:
        yield LiveUrls(request, stack)


@contextmanager
def _container(image: str) -> Iterator[str]:
    """Start a container that is reached through 127.0.0.1 only."""
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(image)
    container.ports["5672/tcp"] = ("127.0.0.1", None)  # type: ignore[assignment]
    with container:
        url = f"amqp://guest:guest@127.0.0.1:{container.get_exposed_port(5672)}/%2F"
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                knock(url)
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                break
        yield url


@pytest.fixture(params=LIVE)
def live(request: pytest.FixtureRequest, live_urls: LiveUrls) -> Callable[[], Live]:
    """Makes adapters for a real broker; whoever makes one disposes of it."""
    url = live_urls.of(request.param)
    version = version_of(knock(url))
    return lambda: Live(url, version)


@pytest.fixture(params=[*SIMULATED, *LIVE])
def session(request: pytest.FixtureRequest, live_urls: LiveUrls) -> Iterator[Session]:
    """Each broker in turn."""
    if isinstance(request.param, BrokerVersion):
        yield Session(Simulated(request.param))
        return
    url = live_urls.of(request.param)
    broker = Live(url, version_of(knock(url)))
    yield Session(broker)
    broker.dispose()

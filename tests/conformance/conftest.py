"""The brokers of the conformance suite: simulated ones of each version, and real ones.

TEARDOWN_CONFORMANCE_IMAGES names the images for containers, separated by commas.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support.needs import CONTAINERS, need, need_engine

from conformance.adapter import Session
from conformance.live import Live
from conformance.simulated import Simulated
from teardown_lab.broker.address import knock
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.container import (
    ImageUnavailable,
    image_name,
    rabbitmq_container,
)
from teardown_lab.simulator.versions import VERSIONS, BrokerVersion, version_of

IMAGES = (os.environ.get("TEARDOWN_CONFORMANCE_IMAGES") or image_name()).split(",")

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
            need_engine()
            self._urls[name] = _container(name, self._stack)
        return self._urls[name]


@pytest.fixture(scope="session")
def live_urls(request: pytest.FixtureRequest) -> Iterator[LiveUrls]:
    with ExitStack() as stack:
        yield LiveUrls(request, stack)


def _container(image: str, stack: ExitStack) -> str:
    run = stack.enter_context(RunFolder())
    try:
        return stack.enter_context(rabbitmq_container(run, image))
    except ImageUnavailable as error:
        need(None, f"container ({error})", CONTAINERS)
        raise


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

"""Brokers and labs for tests: a real one where it can be had, the simulated one always.

A test that needs RabbitMQ is skipped where there is none, and fails there if
TEARDOWN_REQUIRE_BROKER is set: CI must not pass by skipping.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support.needs import need_server

from service_runtime import logs
from teardown_lab.experiment.lab import Lab, LabOptions, open_lab
from teardown_lab.own_broker.private_node import PrivateNode

VCPUS_MAX = 8

# A shell's background job ignores SIGINT, and so would every program that tests start from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
# pytest-xdist tells its processes a width, and so would every command that tests run there.
os.environ.pop("COLUMNS", None)

logs.configure("warning")

settings.register_profile("repeatable", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("wandering", deadline=None, print_blob=True, max_examples=500)
settings.load_profile(os.environ.get("TEARDOWN_HYPOTHESIS", "repeatable"))


SHARED_STATE = ("container", "cluster", "observability")
"""Rooms whose tests share more than a file: a compose stack, a cluster, a Prometheus."""
SLOWEST_FIRST = (
    *SHARED_STATE, "integration", "security", "conformance", "end_to_end", "packaging", "drivers",
)  # fmt: skip
"""The order of the rooms: what waits for brokers begins first, what computes fills the gaps."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what runs where, when several processes share the tests (`-n`).

    The tests of a file stay in one process, as they share its brokers; those of a file that is
    marked `spread` share nothing and go wherever there is room.
    """
    for item in items:
        room, _, file = item.location[0].removeprefix("tests/").partition("/")
        if not item.get_closest_marker("spread"):
            group = room if room in SHARED_STATE else f"{room}/{file}"
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    room = item.location[0].removeprefix("tests/").partition("/")[0]
    return SLOWEST_FIRST.index(room) if room in SLOWEST_FIRST else len(SLOWEST_FIRST)


collect_ignore = ["user_repository"]
"""A repository of its own: tests/packaging runs it, on the wheel."""


@pytest.fixture(scope="session")
def amqp_url(teardown_broker: str) -> str:
    """A RabbitMQ of this test session, by our own plugin: `--teardown-broker` chooses another."""
    return teardown_broker


@pytest.fixture
def own_node(amqp_url: str) -> Iterator[str]:
    """A RabbitMQ of one test's own, where nobody else's services compete."""
    need_server()
    with PrivateNode() as node:
        yield node.url


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for histories."""
    return tmp_path_factory.mktemp("histories")


def _lab(broker: str, workers: int) -> Iterator[Lab]:
    options = LabOptions(broker=broker, workers=workers, vcpus=VCPUS_MAX)
    with open_lab(options, print) as lab:
        yield lab


@pytest.fixture(scope="session")
def simulated_lab() -> Iterator[Lab]:
    yield from _lab("simulated", 2)


@pytest.fixture(scope="session")
def rabbit_lab(amqp_url: str) -> Iterator[Lab]:
    """Two workers on RabbitMQ, started once for all tests."""
    yield from _lab(amqp_url, 2)


@pytest.fixture(
    scope="session", params=["simulated", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)]
)
def lab(request: pytest.FixtureRequest) -> Lab:
    """Both drivers, one after the other: what one suite of tests runs on."""
    name = "simulated_lab" if request.param == "simulated" else "rabbit_lab"
    found: Lab = request.getfixturevalue(name)
    return found

"""Brokers with the deployment's permissions: a private node, and a container where there is one."""

import os
from collections.abc import Iterator

import pytest
from integration.tools.log import Log
from security.guarded import CLIENT, Guarded, guarded_container, guarded_node, services

from teardown_lab.broker.container import engine_answers
from teardown_lab.broker.private_node import server_script
from teardown_lab.experiment.lab import Lab, LabOptions, open_lab

BROKERS = [
    pytest.param("node", marks=pytest.mark.rabbitmq),
    pytest.param("container", marks=pytest.mark.container),
]


def _need(there: bool, variable: str, what: str) -> None:
    if not there and os.environ.get(variable):
        pytest.fail(f"there is no {what}, and {variable} asks for one")
    if not there:
        pytest.skip(f"there is no {what}")


@pytest.fixture(scope="package", params=BROKERS)
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    if request.param == "node":
        _need(server_script() is not None, "TEARDOWN_REQUIRE_BROKER", "rabbitmq-server")
        with guarded_node(folder) as node:
            yield node
    else:
        _need(engine_answers(), "TEARDOWN_REQUIRE_CONTAINERS", "container engine")
        with guarded_container(folder) as container:
            yield container


@pytest.fixture(scope="package")
def log(broker: Guarded) -> Iterator[Log]:
    """Services run as their users; this is what they log."""
    log = Log()
    with services(broker, log):
        yield log


@pytest.fixture(scope="package")
def lab(broker: Guarded, log: Log) -> Iterator[Lab]:
    """A lab whose client is a user as narrow as the services'."""
    with open_lab(LabOptions(broker=broker.url(CLIENT), attach=True), print) as lab:
        yield lab

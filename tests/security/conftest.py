"""Brokers with the deployment's permissions: a private node, and a container where there is one."""

from collections.abc import Iterator

import pytest
from integration.tools.log import Log
from security.guarded import CLIENT, Guarded, guarded_container, guarded_node, services
from support.needs import need_engine, need_server

from teardown_lab.experiment.lab import Lab, LabOptions, open_lab

BROKERS = [
    pytest.param("node", marks=pytest.mark.rabbitmq),
    pytest.param("container", marks=pytest.mark.container),
]


@pytest.fixture(scope="package", params=BROKERS)
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    if request.param == "node":
        need_server()
        with guarded_node(folder) as node:
            yield node
    else:
        need_engine()
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

"""Three private nodes that form a cluster: one for all of these tests."""

import os
from collections.abc import Iterator

import pytest

from teardown_lab.broker.cluster import PrivateCluster
from teardown_lab.broker.private_node import server_script


@pytest.fixture(scope="session")
def cluster() -> Iterator[PrivateCluster]:
    if server_script() is None:
        if os.environ.get("TEARDOWN_REQUIRE_BROKER"):
            pytest.fail("a cluster needs rabbitmq-server, and TEARDOWN_REQUIRE_BROKER asks for one")
        pytest.skip("a cluster needs rabbitmq-server")
    with PrivateCluster() as cluster:
        yield cluster

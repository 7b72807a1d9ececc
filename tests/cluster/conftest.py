"""Three private nodes that form a cluster: one for all of these tests."""

from collections.abc import Iterator

import pytest
from support.needs import need_server

from teardown_lab.own_broker.cluster import PrivateCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[PrivateCluster]:
    need_server()
    with PrivateCluster() as cluster:
        yield cluster

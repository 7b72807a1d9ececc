"""A node that these tests have to themselves: one for all of them, with one stack at a time."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.needs import need_server

from teardown_lab.faults.proxy import Proxy
from teardown_lab.own_broker.private_node import PrivateNode


@pytest.fixture(scope="session")
def lone_node(amqp_url: str) -> Iterator[PrivateNode]:
    """A node on which no other test's services run; each test stops its own before it ends."""
    need_server()
    with PrivateNode() as node:
        yield node


@pytest.fixture(scope="module")
def fresh_node(amqp_url: str) -> Iterator[PrivateNode]:
    """A node of one file of tests, for rough ones: its journal is short, its loss hurts nobody."""
    need_server()
    with PrivateNode() as node:
        yield node


@pytest.fixture
def proxy(fresh_node: PrivateNode) -> Iterator[Proxy]:
    with Proxy(fresh_node.url) as proxy:
        yield proxy


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"

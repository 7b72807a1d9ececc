"""What tests need of the machine: without it they are skipped here, and fail where CI asks for it.

CI must not pass by skipping, so no other file of the tests skips.
"""

import os
from typing import Final

import pytest

from teardown_lab.leftovers.docker import engine_answers
from teardown_lab.own_broker.private_node import server_script

BROKER: Final = "TEARDOWN_REQUIRE_BROKER"
CONTAINERS: Final = "TEARDOWN_REQUIRE_CONTAINERS"
NAMESPACES: Final = "TEARDOWN_REQUIRE_NAMESPACES"


def need(there: object, what: str, variable: str) -> None:
    """Skip a test that lacks something; fail it if the variable is set."""
    if there:
        return
    if os.environ.get(variable):
        pytest.fail(f"there is no {what}, and {variable} asks for one")
    pytest.skip(f"there is no {what}")


def need_server() -> None:
    """Need an installed `rabbitmq-server`, for a node of one's own."""
    need(server_script(), "rabbitmq-server", BROKER)


def need_engine() -> None:
    """Need a container engine that answers."""
    need(engine_answers(), "container engine that answers", CONTAINERS)

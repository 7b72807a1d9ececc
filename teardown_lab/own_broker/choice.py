"""Which broker a run uses: the one that was asked for, else the best one that is at hand.

Nothing is printed here; `ProvidedBroker.line` is for the command line to print.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from service_runtime.settings import SettingsError, read_url
from teardown_lab.broker.address import knock, without_password
from teardown_lab.broker.errors import BrokerMisnamed, BrokerUnavailable
from teardown_lab.leftovers.docker import engine_answers
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.container import (
    ImageUnavailable,
    image_name,
    rabbitmq_container,
)
from teardown_lab.own_broker.private_node import PrivateNode, server_script

__all__ = [
    "URL_VARIABLE",
    "BrokerUnavailable",
    "ProvidedBroker",
    "provide_broker",
    "running_broker",
]

URL_VARIABLE: Final = "AMQP_URL"
STACK_URL_FILE: Final = Path("deploy", "secrets", "client.url")
"""Below a checkout: the client's URL of the stack of docker-compose.yml, made at set-up."""


@dataclass(frozen=True, slots=True)
class ProvidedBroker:
    """A broker that is ready; `url` is None for the simulated one, which the caller has."""

    url: str | None
    kind: Literal["url", "private-node", "container", "simulated"]
    line: str


@contextmanager
def provide_broker(choice: str, run: RunFolder) -> Iterator[ProvidedBroker]:
    """Give the broker for a run, and take away at the end what was started for it.

    Args:
        choice: "auto", "simulated", or an amqp:// URL.
        run: Where started processes and containers are recorded.

    Raises:
        BrokerUnavailable: The chosen broker does not answer or start. "auto" goes on to the next
            only if a broker is not there; one that is there and fails is an error.
    """
    url = _url_of_environment() if choice == "auto" else ""
    if choice == "simulated":
        yield ProvidedBroker(None, "simulated", "broker: simulated, as asked")
    elif choice != "auto":
        yield _at_choice(choice)
    elif url:
        yield _at_url(url, URL_VARIABLE)
    elif server_script() is not None:
        with PrivateNode(run=run) as node:
            line = f"broker: {knock(node.url)}, a private node on port {node.port}"
            yield ProvidedBroker(node.url, "private-node", line)
    elif engine_answers():
        yield from _in_container(run)
    else:
        yield _simulated("no AMQP_URL, no rabbitmq-server and no container engine here")


def running_broker(choice: str) -> ProvidedBroker:
    """Give the broker of services that run already: nothing is started.

    Args:
        choice: An amqp:// URL, or "auto": what AMQP_URL names, else the stack of this checkout.

    Raises:
        BrokerUnavailable: No broker is named, or it does not answer.
    """
    if choice == "simulated":
        raise BrokerMisnamed("--attach wants services that run: nothing runs in a simulation")
    if choice != "auto":
        return _at_choice(choice)
    if url := _url_of_environment():
        return _at_url(url, URL_VARIABLE)
    try:
        url = STACK_URL_FILE.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BrokerUnavailable(
            "--attach needs the broker of the running services: --broker amqp://..., AMQP_URL, or "
            f"{STACK_URL_FILE}, which cannot be read here ({error.strerror})"
        ) from error
    return _at_url(url, str(STACK_URL_FILE))


def _at_choice(choice: str) -> ProvidedBroker:
    if not choice.startswith(("amqp://", "amqps://")):
        raise BrokerMisnamed("a broker is auto, simulated, or an amqp:// URL")
    return _at_url(choice, "--broker")


def _url_of_environment() -> str:
    """Return AMQP_URL, or what AMQP_URL_FILE holds; as the services read them."""
    try:
        return read_url(os.environ, URL_VARIABLE)
    except SettingsError as error:
        raise BrokerMisnamed(str(error)) from error


def _at_url(url: str, source: str) -> ProvidedBroker:
    try:
        server = knock(url)
    except BrokerUnavailable as error:
        raise type(error)(f"{source}: {error}") from error
    return ProvidedBroker(url, "url", f"broker: {server} at {without_password(url)} ({source})")


def _in_container(run: RunFolder) -> Iterator[ProvidedBroker]:
    with ExitStack() as stack:
        try:
            url = stack.enter_context(rabbitmq_container(run))
        except ImageUnavailable as error:
            yield _simulated(f"no AMQP_URL, no rabbitmq-server, and {error}")
            return
        line = f"broker: {knock(url)}, a container of {image_name()}"
        yield ProvidedBroker(url, "container", line)


def _simulated(reason: str) -> ProvidedBroker:
    return ProvidedBroker(None, "simulated", f"broker: simulated, because there is {reason}")

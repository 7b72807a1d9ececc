"""A broker with the deployment's users and permissions, and the services as those users."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
from container.compose import Compose
from integration.tools.amqp import channel_to
from integration.tools.log import Log
from integration.tools.service import service
from pika.adapters.blocking_connection import BlockingChannel

from teardown_lab.own_broker.private_node import PrivateNode

sys.path.append(str(Path(__file__).parents[2] / "deploy" / "rabbitmq"))

import make_definitions
import permissions

USERS = tuple(role.user for role in permissions.ROLES)
WORKERS = ("w-1", "w-2")
MANAGER, MONITOR, WORKER, CLIENT, OPERATOR = USERS


@dataclass(frozen=True)
class Guarded:
    """A broker that knows the roles' users and no others; `passwords` are files, by user."""

    port: int
    passwords: dict[str, Path]

    def url(self, user: str, *, password: bool = True) -> str:
        """Return a user's URL."""
        known = f":{self.password(user)}" if password else ""
        return f"amqp://{user}{known}@127.0.0.1:{self.port}/%2F"

    def password(self, user: str) -> str:
        """Return a user's password."""
        return self.passwords[user].read_text(encoding="ascii").strip()

    @contextmanager
    def channel(self, user: str) -> Iterator[BlockingChannel]:
        """Give a channel of a user, with confirms on."""
        with channel_to(self.url(user)) as channel:
            channel.confirm_delivery()
            yield channel


def password_files(folder: Path, workers: tuple[str, ...] = ()) -> dict[str, Path]:
    """Return where the set-up has put each user's password."""
    users = [role.user for role in permissions.roles_of(workers)]
    return {user: make_definitions.password_file(folder, user) for user in users}


@contextmanager
def guarded_node(
    folder: Path,
    workers: tuple[str, ...] = (),
    change: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Iterator[Guarded]:
    """Start a private node that imports the definitions as the container does, at boot.

    `workers` have users of their own; `change` may lower bounds, so that a test can reach them.
    `guest` is added for the node's own start, which is judged by a login: on loopback only.
    """
    passwords = make_definitions.write_secrets(folder, 0, workers=workers)
    definitions: dict[str, Any] = make_definitions.definitions(passwords, workers)
    change(definitions)
    guest = permissions.Role("guest", (".*",), (".*",), (".*",))
    hashed = make_definitions.password_hash("guest", b"salt")
    definitions["users"].append({"name": "guest", "password_hash": hashed, "tags": []})
    definitions["permissions"].append({"user": "guest", "vhost": "/", **guest.permissions()})
    file = folder / "with-guest.json"
    file.write_text(json.dumps(definitions), encoding="utf-8")
    with PrivateNode(config=[f"load_definitions = {file}"]) as node:
        yield Guarded(node.port, password_files(folder, workers))


@contextmanager
def guarded_container(folder: Path) -> Iterator[Guarded]:
    """Start the broker of docker-compose.yml, alone."""
    compose = Compose.prepared(folder)
    try:
        compose.up("rabbitmq")
        copies = folder / "copies"
        copies.mkdir()
        compose.copy_secrets(copies)
        yield Guarded(compose.ports["AMQP"], password_files(copies))
    finally:
        compose.down()


def roles() -> dict[str, str]:
    """Return the settings that say which user plays which role."""
    return {f"{user.upper()}_USERS": user for user in USERS if user != OPERATOR}


@contextmanager
def services(broker: Guarded, log: Log, level: str = "debug") -> Iterator[None]:
    """Run a manager and two workers as their users, with passwords from files."""
    common = {"AMQP_TOPOLOGY": "given", "LOG_LEVEL": level, **roles()}
    manager = {
        "AMQP_PASSWORD_FILE": str(broker.passwords[MANAGER]),
        "MONITOR_AMQP_URL": broker.url(MONITOR, password=False),
        "MONITOR_AMQP_PASSWORD_FILE": str(broker.passwords[MONITOR]),
    }
    worker = {"AMQP_PASSWORD_FILE": str(broker.passwords[WORKER])}
    with ExitStack() as stack:
        url = broker.url(MANAGER, password=False)
        stack.enter_context(service("vm_manager", url, log, **common, **manager))
        url = broker.url(WORKER, password=False)
        for name in WORKERS:
            settings = {**common, **worker, "WORKER_ID": name}
            stack.enter_context(service("vcpu_worker", url, log, **settings))
        log.wait(1 + len(WORKERS), event="service.ready")
        yield


def refusal(broker: Guarded, user: str, act: Any) -> tuple[int, str]:
    """Return with which code and text the broker refuses what `act` does with a channel."""
    with pika.BlockingConnection(pika.URLParameters(broker.url(user))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            act(channel)
        except pika.exceptions.ChannelClosedByBroker as error:
            return error.reply_code, error.reply_text
    return 0, "done"

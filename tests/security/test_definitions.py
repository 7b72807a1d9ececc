"""What the set-up writes: who may read it, what stays, and what the broker makes of it."""

import asyncio
import base64
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from integration.tools.cli import Place, teardown
from integration.tools.log import Log
from integration.tools.service import service
from security.guarded import USERS, WORKERS, guarded_node, make_definitions, permissions
from support.needs import need_server

from service_runtime.amqp.endpoint import Endpoint
from service_runtime.amqp.session import AmqpSession
from vm_protocol import topology
from vm_protocol.topology import Mailbox, Queue

ROOT = Path(__file__).parents[2]


def test_only_its_owner_reads_a_secret(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    make_definitions.write_secrets(folder, 5672)

    found = {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
    }
    assert {name for name, mode in found.items() if mode == 0o700} == {
        "broker",
        "manager",
        "worker",
        "client",
    }
    assert {name for name, mode in found.items() if mode == 0o600} == {
        "broker/definitions.json",
        "manager/manager.password",
        "manager/monitor.password",
        "worker/worker.password",
        "client/client.password",
        "client/client.url",
        "client/operator.password",
    }
    assert set(found.values()) == {0o600, 0o700}


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_root_gives_each_file_to_who_reads_it(tmp_path: Path) -> None:
    client = tmp_path / "client"
    client.mkdir()
    os.chown(client, 4711, 4711)

    for _ in range(2):
        make_definitions.write_secrets(tmp_path, 5672)

    owners = {path.name: path.stat().st_uid for path in tmp_path.rglob("*.*")}
    assert {name for name, owner in owners.items() if owner == 4711} == {
        "client.password",
        "client.url",
        "operator.password",
    }
    assert set(owners.values()) == {4711, make_definitions.IMAGE_USER}


def test_passwords_stay_until_they_are_rotated(tmp_path: Path) -> None:
    first = make_definitions.write_secrets(tmp_path, 5672)
    second = make_definitions.write_secrets(tmp_path, 5672)
    third = make_definitions.write_secrets(tmp_path, 5672, rotate=True)

    assert first == second
    assert set(first.values()).isdisjoint(third.values())
    assert len(set(third.values())) == len(USERS)


def test_the_definitions_hold_hashes_and_no_passwords(tmp_path: Path) -> None:
    passwords = make_definitions.write_secrets(tmp_path, 5672)
    text = make_definitions.definitions_file(tmp_path).read_text(encoding="utf-8")

    assert [password for password in passwords.values() if password in text] == []
    for user in json.loads(text)["users"]:
        raw = base64.b64decode(user["password_hash"])
        salted = raw[:4] + passwords[user["name"]].encode()
        assert raw[4:] == hashlib.sha256(salted).digest()


def test_git_ignores_what_the_set_up_writes() -> None:
    names = ["deploy/secrets/client.password", "deploy/secrets/client.url"]

    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *names],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )

    assert done.stdout.split() == names


def test_it_needs_no_package(tmp_path: Path) -> None:
    script = ROOT / "deploy" / "rabbitmq" / "make_definitions.py"
    given = ["--folder", tmp_path / "secrets"]

    done = subprocess.run(
        [sys.executable, "-S", script, *given], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert not any(password in done.stdout for password in passwords_in(tmp_path / "secrets"))


def passwords_in(folder: Path) -> list[str]:
    return [file.read_text(encoding="ascii").strip() for file in folder.rglob("*.password")]


OWN: list[tuple[str, Queue]] = [
    ("manager", topology.MANAGER_REPLIES_QUEUE),
    ("manager", Mailbox("vm-1", 3, 2).queue()),
    ("worker", topology.worker_commands(WORKERS[0])),
    ("worker", topology.worker_replies("4f0c1d2e3b4a")),
    ("client", topology.client_replies("vm-1")),
]
ROLES = {role.user: role.permissions() for role in permissions.ROLES}


@pytest.mark.parametrize(("user", "queue"), OWN)
def test_each_role_makes_its_own_queues_and_nobody_else_does(user: str, queue: Queue) -> None:
    allowed = {name for name, may in ROLES.items() if re.search(may["configure"], queue.name)}

    assert allowed == {user}
    dead_letters = str(dict(queue.arguments)["x-dead-letter-exchange"])
    assert re.search(ROLES[user]["write"], dead_letters)
    for exchange, _ in queue.bindings:
        assert re.search(ROLES[user]["read"], exchange)


def test_patterns_match_whole_names() -> None:
    odd = ["xcommands", "commandsx", "worker.w.commands.more", "vcpu.vm.1.1x", "manager.1.replies"]
    odd += ["", "vm-requests", "amq.default", "teardown.journalx", "client.a.b.replies"]

    assert {
        (user, kind, name)
        for user, may in ROLES.items()
        for kind, pattern in may.items()
        for name in odd
        if name and re.search(pattern, name)
    } == set()


@pytest.mark.rabbitmq
def test_what_is_imported_equals_what_a_service_would_declare(tmp_path: Path) -> None:
    """A declaration that differs in one argument would end in 406."""
    need_server()

    class Nobody:
        delivered = confirmed = returned = cancelled = blocked = lambda *_: None

    async def declare(url: str) -> None:
        session = AmqpSession(Endpoint(url), "a service that declares", Nobody())
        await session.open()
        await session.close()

    with guarded_node(tmp_path) as node:
        asyncio.run(declare(f"amqp://guest:guest@127.0.0.1:{node.port}/%2F"))


@pytest.mark.rabbitmq
def test_where_no_topology_was_given_it_is_said_at_once(own_node: str, tmp_path: Path) -> None:
    log = Log()
    run = ("run", "unload-in-destroy", "--attach", "--broker", own_node)

    attached = teardown(Place(tmp_path), *run)
    with service("vcpu_worker", own_node, log, AMQP_TOPOLOGY="given") as worker:
        code = worker.wait(timeout=60)

    assert (attached.returncode, code) == (4, 4)
    assert "no service and no definitions made it" in attached.stderr
    log.wait(event="broker.topology_missing")

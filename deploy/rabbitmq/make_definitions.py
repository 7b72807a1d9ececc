#!/usr/bin/env python3
"""Write what the stack's broker imports at its boot, and the passwords that its users have.

`docker compose up` runs this first, as its service `setup`. Each reader gets a folder of its own:
`broker/definitions.json` (users with hashed passwords, permissions, exchanges, shared queues),
`manager/` and `worker/` the passwords that those services read, `client/` the URL for
`teardown run --attach` and the operator's password. With --worker ID, once for each, every worker
has a user and a folder of its own, `worker-ID/`. Passwords that are there already stay, unless
--rotate asks for new ones. Needs Python 3.11 and nothing else.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "shared"), str(Path(__file__).parent)]

from permissions import (  # noqa: E402 - found through the lines above
    CLIENT,
    MANAGER,
    MONITOR,
    OPERATOR,
    WORKER,
    Role,
    roles_of,
    worker_of,
)

from vm_protocol import limits, topology  # noqa: E402

VIRTUAL_HOST: Final = "/"
IMAGE_USER: Final = 10001
"""Whom containers run as: root gives what they read to that user."""
PASSWORD_BYTES: Final = 32
BROKER_FOLDER: Final = "broker"
CLIENT_FOLDER: Final = "client"
"""Of whoever sits at the host: its files go to the owner that it has."""
FOLDERS: Final = {
    MANAGER.user: "manager",
    MONITOR.user: "manager",
    WORKER.user: "worker",
    CLIENT.user: CLIENT_FOLDER,
    OPERATOR.user: CLIENT_FOLDER,
}
"""Where each user's password goes: the monitor lives in the manager's process. A worker's own user
has a folder of its name."""
QUEUES_MAX: Final = 8_192
"""Queues of the virtual host: one for each vCPU, two for each worker, one for each client."""
CONNECTIONS_MAX: Final = 640
"""Connections of the virtual host: what its users may have together, and some."""
QUEUE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of any queue that a service or client declares, whatever it asks for; the largest mailbox holds
20 MB. A stream keeps its last segment on top of that."""
COMMANDS_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of commands that wait for a manager; then publishers are refused, and nothing is dropped."""


def password_hash(password: str, salt: bytes) -> str:
    """Return a password as RabbitMQ keeps it: salted SHA-256 (RabbitMQ: passwords)."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def definitions(passwords: dict[str, str], workers: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what the broker imports; exchanges and queues are those that the services know.

    Args:
        passwords: By user.
        workers: Ids of the workers that have a user each; none: all workers are one user.
    """
    at = {"vhost": VIRTUAL_HOST}
    roles = roles_of(workers)
    return {
        "vhosts": [{"name": VIRTUAL_HOST}],
        "users": [_user(role, passwords[role.user]) for role in roles],
        "permissions": [{"user": role.user, **at, **role.permissions()} for role in roles],
        "topic_permissions": [
            {"user": role.user, **at, **each} for role in roles for each in role.topic_permissions()
        ],
        "parameters": [
            _parameter("vhost-limits", "limits", _vhost_limits()),
            _parameter("operator_policy", "bounded", _bounded()),
        ],
        "policies": [
            {
                "name": "commands",
                **at,
                "pattern": f"^{re.escape(topology.MANAGER_COMMANDS_QUEUE.name)}$",
                "apply-to": "queues",
                "priority": 0,
                "definition": {
                    "max-length-bytes": COMMANDS_BYTES_MAX,
                    "overflow": "reject-publish",
                },
            }
        ],
        "exchanges": [
            {"name": each.name, "type": each.type, **at, **_lasting(), "internal": False}
            for each in topology.EXCHANGES
        ],
        "queues": [
            {"name": each.name, **at, **_lasting(each.arguments)} for each in topology.SHARED_QUEUES
        ],
        "bindings": [
            {
                "source": exchange,
                "destination": queue.name,
                "destination_type": "queue",
                "routing_key": key,
                "arguments": {},
                **at,
            }
            for queue in topology.SHARED_QUEUES
            for exchange, key in queue.bindings
        ],
    }


def _parameter(component: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"component": component, "vhost": VIRTUAL_HOST, "name": name, "value": value}


def _vhost_limits() -> dict[str, int]:
    return {"max-queues": QUEUES_MAX, "max-connections": CONNECTIONS_MAX}


def _bounded() -> dict[str, Any]:
    """Return the operator policy that bounds what others declare, whatever their arguments say."""
    return {
        "pattern": r"^(manager|worker|client|vcpu)\.",
        "apply-to": "queues",
        "priority": 0,
        "definition": {"max-length-bytes": QUEUE_BYTES_MAX},
    }


def _user(role: Role, password: str) -> dict[str, Any]:
    return {
        "name": role.user,
        "password_hash": password_hash(password, secrets.token_bytes(4)),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": list(role.tags),
        "limits": {"max-connections": role.connections},
    }


def _lasting(arguments: tuple[tuple[str, Any], ...] = ()) -> dict[str, Any]:
    return {"durable": True, "auto_delete": False, "arguments": dict(arguments)}


def password_file(folder: Path, user: str) -> Path:
    """Return where a user's password stands."""
    return folder / FOLDERS.get(user, user) / f"{user}.password"


def client_url_file(folder: Path) -> Path:
    """Return where the client's URL stands."""
    return folder / CLIENT_FOLDER / "client.url"


def definitions_file(folder: Path) -> Path:
    """Return where the definitions stand, which the broker imports."""
    return folder / BROKER_FOLDER / "definitions.json"


def write_secrets(
    folder: Path, port: int, *, rotate: bool = False, workers: tuple[str, ...] = ()
) -> dict[str, str]:
    """Write the folder's files, and return the passwords by user.

    Raises:
        OSError: The folder or a file in it cannot be written.
    """
    files = {role.user: password_file(folder, role.user) for role in roles_of(workers)}
    for name in (BROKER_FOLDER, *dict.fromkeys(file.parent.name for file in files.values())):
        _make_folder(folder / name)
    passwords = {user: _password(file, rotate=rotate) for user, file in files.items()}
    _put(definitions_file(folder), json.dumps(definitions(passwords, workers), indent=2) + "\n")
    url = f"amqp://{CLIENT.user}:{passwords[CLIENT.user]}@127.0.0.1:{port}/%2F"
    _put(client_url_file(folder), url + "\n")
    return passwords


def _make_folder(folder: Path) -> None:
    """Make a folder that only its owner enters; what containers read is theirs."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    if os.getuid() == 0 and folder.name != CLIENT_FOLDER:
        os.chown(folder, IMAGE_USER, IMAGE_USER)


def _password(file: Path, *, rotate: bool) -> str:
    known = "" if rotate or not file.exists() else file.read_text(encoding="ascii").strip()
    password = known or secrets.token_urlsafe(PASSWORD_BYTES)
    _put(file, password + "\n")
    return password


def _put(file: Path, text: str) -> None:
    """Write a file that only its owner reads, who is that of its folder."""
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    if os.getuid() == 0:
        owner = file.parent.stat()
        os.chown(part, owner.st_uid, owner.st_gid)
    part.replace(file)


def main() -> None:
    """Write the files and say where they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where they go")
    parser.add_argument("--port", type=int, default=5672, help="where 127.0.0.1 reaches the broker")
    parser.add_argument("--rotate", action="store_true", help="new passwords for all users")
    parser.add_argument(
        "--worker",
        dest="workers",
        metavar="ID",
        action="append",
        default=[],
        type=_worker_id,
        help="a worker with a user of its own, worker-ID; once for each",
    )
    given = parser.parse_args()
    workers = tuple(dict.fromkeys(given.workers))
    passwords = write_secrets(given.folder, given.port, rotate=given.rotate, workers=workers)
    sys.stdout.write(
        f"{given.folder}: definitions.json and the passwords of {len(passwords)} users\n"
    )
    if workers:
        named = ",".join(f"{worker_of(worker).user}={worker}" for worker in workers)
        sys.stdout.write(f"set for every service: WORKER_USERS={named}\n")


def _worker_id(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", text) or len(text) > limits.NAME_CHARACTERS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: small letters, digits and dashes, 40 at most")
    return text


if __name__ == "__main__":
    main()

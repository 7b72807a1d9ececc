#!/usr/bin/env python3
"""Write what the stack's broker imports at its first boot, and the passwords that its users have.

Into a folder that git ignores: `definitions.json` (users with hashed passwords, permissions,
exchanges, shared queues) for the broker, `<user>.password` for each service, and `client.url` for
`teardown run --attach`. Beside them goes `.env`, without secrets, which `docker compose` reads.
Passwords that are there already stay, unless --rotate asks for new ones. Needs Python 3.11 and
nothing else.
"""

import argparse
import base64
import hashlib
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "shared"), str(Path(__file__).parent)]

from permissions import CLIENT, ROLES, Role  # noqa: E402 - found through the lines above

from vm_protocol import topology  # noqa: E402

FOLDER: Final = ROOT / "deploy" / "secrets"
VIRTUAL_HOST: Final = "/"
IMAGE_USER: Final = 10001
"""The user of the image: root's files are given to it, since no container runs as root."""
PASSWORD_BYTES: Final = 32
MARK: Final = "# Made by deploy/rabbitmq/make_definitions.py."


def password_hash(password: str, salt: bytes) -> str:
    """Return a password as RabbitMQ keeps it: salted SHA-256 (RabbitMQ: passwords)."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def definitions(passwords: dict[str, str]) -> dict[str, Any]:
    """Return what the broker imports; exchanges and queues are those that the services know."""
    at = {"vhost": VIRTUAL_HOST}
    return {
        "vhosts": [{"name": VIRTUAL_HOST}],
        "users": [_user(role, passwords[role.user]) for role in ROLES],
        "permissions": [{"user": role.user, **at, **role.permissions()} for role in ROLES],
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


def _user(role: Role, password: str) -> dict[str, Any]:
    return {
        "name": role.user,
        "password_hash": password_hash(password, secrets.token_bytes(4)),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": list(role.tags),
    }


def _lasting(arguments: tuple[tuple[str, Any], ...] = ()) -> dict[str, Any]:
    return {"durable": True, "auto_delete": False, "arguments": dict(arguments)}


def write_secrets(folder: Path, port: int, *, rotate: bool = False) -> dict[str, str]:
    """Write the folder's files, and return the passwords by user.

    Raises:
        OSError: The folder or a file in it cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    passwords = {role.user: _password(folder, role.user, rotate=rotate) for role in ROLES}
    _put(folder / "definitions.json", json.dumps(definitions(passwords), indent=2) + "\n")
    url = f"amqp://{CLIENT.user}:{passwords[CLIENT.user]}@127.0.0.1:{port}/%2F"
    _put(folder / "client.url", url + "\n", is_ours=True)
    return passwords


def write_environment(file: Path, folder: Path, port: int) -> None:
    """Write what docker-compose.yml leaves open.

    Raises:
        FileExistsError: The file is somebody else's; the text says what is wanted in it.
        OSError: It cannot be written.
    """
    lines = [
        f"TEARDOWN_UID={os.getuid() or IMAGE_USER}",
        f"TEARDOWN_AMQP_PORT={port}",
    ]
    if folder.resolve() != FOLDER:  # where docker-compose.yml looks by itself, also once moved
        lines.append(f"TEARDOWN_SECRETS={folder.resolve()}")
    if file.exists() and MARK not in file.read_text(encoding="utf-8"):
        raise FileExistsError(f"{file} is not ours: put into it {' '.join(lines)}")
    file.write_text("\n".join([MARK, *lines]) + "\n", encoding="utf-8")


def _password(folder: Path, user: str, *, rotate: bool) -> str:
    file = folder / f"{user}.password"
    known = "" if rotate or not file.exists() else file.read_text(encoding="ascii").strip()
    password = known or secrets.token_urlsafe(PASSWORD_BYTES)
    _put(file, password + "\n")
    return password


def _put(file: Path, text: str, *, is_ours: bool = False) -> None:
    """Write a file that only its owner reads; `is_ours` keeps it from the containers' user."""
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    if os.getuid() == 0 and not is_ours:
        os.chown(part, IMAGE_USER, IMAGE_USER)
    part.replace(file)


def main() -> None:
    """Write the files and say where they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--env-file", type=Path, default=ROOT / ".env")
    parser.add_argument("--port", type=int, default=5672, help="where 127.0.0.1 reaches the broker")
    parser.add_argument("--rotate", action="store_true", help="new passwords for all users")
    given = parser.parse_args()
    write_secrets(given.folder, given.port, rotate=given.rotate)
    try:
        write_environment(given.env_file, given.folder, given.port)
    except FileExistsError as error:
        sys.exit(f"make_definitions: {error}")
    sys.stdout.write(f"{given.folder}: definitions.json and the passwords of {len(ROLES)} users\n")


if __name__ == "__main__":
    main()

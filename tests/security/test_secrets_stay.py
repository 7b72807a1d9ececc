"""A password is nowhere but where it was put: every output of every program is searched for it."""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from integration.tools.cli import Place, processes_of, running, teardown
from integration.tools.collector import collecting
from integration.tools.log import Log
from integration.tools.service import service
from security.guarded import make_definitions

from teardown_lab.own_broker.private_node import PrivateNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

USER = "lab"
PASSWORD = "Qz7/pass@word:91"  # noqa: S105 - a test's
ESCAPED = quote(PASSWORD, safe="")
FORMS = (
    PASSWORD,
    ESCAPED,
    "Qz7",  # what is left of it where somebody splits a URL at the wrong sign
    base64.b64encode(PASSWORD.encode()).decode(),
    PASSWORD.encode().hex(),
)
RUN = ("run", "unload-in-destroy-wipe-last", "--verbose")
SERVICES = ("vm_manager", "vcpu_worker")


def leaks(text: str) -> list[str]:
    """Return the forms of the password that a text has."""
    return [form for form in FORMS if form in text]


def url_at(port: int | str, user: str = USER, host: str = "127.0.0.1", path: str = "%2F") -> str:
    return f"amqp://{user}:{ESCAPED}@{host}:{port}/{path}"


@pytest.fixture(scope="module")
def node(amqp_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNode]:
    """A node that has a user with that password, and `guest` for its own start."""
    everything = {"vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
    passwords = {USER: PASSWORD, "guest": "guest"}
    definitions = {
        "vhosts": [{"name": "/"}],
        "users": [
            {
                "name": user,
                "password_hash": make_definitions.password_hash(password, b"salt"),
                "tags": [],
            }
            for user, password in passwords.items()
        ],
        "permissions": [{"user": user, **everything} for user in passwords],
    }
    file = tmp_path_factory.mktemp("secret") / "definitions.json"
    file.write_text(json.dumps(definitions), encoding="utf-8")
    with PrivateNode(config=[f"load_definitions = {file}"]) as node:
        yield node


@pytest.mark.parametrize("by", ["variable", "file", "option"])
def test_a_run_shows_it_nowhere(node: PrivateNode, tmp_path: Path, by: str) -> None:
    place = Place(tmp_path)
    url = url_at(node.port)
    file = tmp_path / "url"
    file.write_text(url, encoding="ascii")
    settings = {"variable": {"AMQP_URL": url}, "file": {"AMQP_URL_FILE": str(file)}, "option": {}}
    option = ("--broker", url) if by == "option" else ()
    told = ("--json", "--history", "h.jsonl", "--junit", "j.xml")

    with collecting() as collector:
        done = teardown(
            place,
            *(*RUN, *told, *option),
            LOG_LEVEL="debug",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            **settings[by],
        )

    file.unlink()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert done.returncode == 1, done.stderr
    assert f"lab@127.0.0.1:{node.port}" in done.stderr
    assert len(collector.spans) > 100
    assert {"h.jsonl", "j.xml"} <= {path.name for path in files}
    for text in (done.stdout, done.stderr, str(collector.spans)):
        assert leaks(text) == []
    assert [path for path in files if leaks(path.read_text(encoding="utf-8"))] == []


def test_a_running_service_shows_it_neither_in_its_arguments_nor_on_its_pages(
    node: PrivateNode, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    url = url_at(node.port)
    long_run = (*RUN, "--vcpus", "128", "--broker", url)

    with running(place, *long_run) as run:
        run.log.wait(3, event="service.ready")
        (run_id,) = place.run_ids()
        arguments = [
            Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
            for process in processes_of(run_id)
        ]
        ports = [line["metrics_port"] for line in run.log.lines if "metrics_port" in line]
        pages = [page(port, path) for port in ports for path in ("metrics", "healthz", "readyz")]
        run.process.terminate()
        run.process.wait(timeout=30)

    assert len(arguments) >= len(ports) == 3
    assert any("teardown_" in page for page in pages)
    assert leaks("\n".join([*arguments, *pages, run.text()])) == []


def page(port: int, path: str) -> str:
    with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


WRONG = {
    "wrong password": lambda port: url_at(port, user="guest"),
    "unknown virtual host": lambda port: url_at(port, path="nowhere"),
    "nobody listens": lambda _: url_at(1),
    "unknown host": lambda port: url_at(port, host="nowhere.invalid"),
    "no port": lambda _: url_at("port"),
    "another scheme": lambda port: url_at(port).replace("amqp", "http"),
    "TLS where there is none": lambda port: url_at(port).replace("amqp", "amqps"),
    "a bad option": lambda port: f"{url_at(port)}?heartbeat={ESCAPED}",
    "a bad host": lambda port: url_at(port, host="[h"),
}
UNREADABLE = ("no port", "another scheme", "a bad option", "a bad host")
"""No broker's URL: a usage error, and no service starts. With the others it tries again."""


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("by", ["option", "variable of a running stack"])
def test_the_command_line_s_errors_do_not_tell_it(
    node: PrivateNode, tmp_path: Path, wrong: str, by: str
) -> None:
    url = WRONG[wrong](node.port)

    if by == "option":
        done = teardown(Place(tmp_path), *RUN, "--broker", url)
    else:
        done = teardown(Place(tmp_path), *RUN, "--attach", AMQP_URL=url)

    assert done.returncode == (2 if wrong in UNREADABLE else 4), done.stderr
    assert leaks(done.stdout + done.stderr) == []


@pytest.mark.parametrize("module", SERVICES)
def test_a_service_s_errors_do_not_tell_it(node: PrivateNode, module: str) -> None:
    logs = {wrong: Log() for wrong in WRONG}

    with ExitStack() as stack:
        for wrong, log in logs.items():
            url = WRONG[wrong](node.port)
            stack.enter_context(service(module, url, log, LOG_LEVEL="debug"))
        for wrong, log in logs.items():
            log.wait(event="(no JSON)" if wrong in UNREADABLE else "broker.connection_lost")

    for wrong, log in logs.items():
        assert leaks("\n".join(map(str, log.lines))) == [], wrong

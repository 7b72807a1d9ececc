"""The pytest plugin as a user has it: pytest in a process of its own, in another repository."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.needs import CONTAINERS, need, need_engine, need_server

from teardown_lab.broker.address import knock
from teardown_lab.experiment.lab import LabOptions, open_lab
from teardown_lab.own_broker.private_node import PrivateNode
from teardown_lab.testing import BrokerUnavailable, broker_for_tests

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1] / "user_repository"
IN_CI = ("CI", "BUILD_NUMBER")
OURS = ("teardown_lab", "vm_protocol", "vm_manager", "vcpu_worker", "service_runtime", "pika")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user does: in CI, pytest repeats whole messages in its summary."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name not in IN_CI},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def pytest_of_a_user(*arguments: str) -> tuple[int, str]:
    done = python("-m", "pytest", "-p", "no:cacheprovider", *arguments)
    return done.returncode, done.stdout + done.stderr


def test_a_run_that_does_not_use_it_imports_nothing_for_it() -> None:
    code = (
        "import sys, pytest;"
        "pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider']);"
        f"print(sorted(m for m in sys.modules if m.partition('.')[0] in {OURS}))"
    )

    last = python("-c", code).stdout.splitlines()[-1]

    assert last == "['teardown_lab', 'teardown_lab.pytest_plugin']"


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param("private", marks=pytest.mark.rabbitmq),
        pytest.param("container", marks=pytest.mark.container),
    ],
)
def test_a_user_s_tests_pass_on(choice: str) -> None:
    """A private node of the installed series, and a container of the current one."""
    need_server() if choice == "private" else need_engine()

    code, text = pytest_of_a_user(f"--teardown-broker={choice}")

    assert code == 0, text
    assert re.search(r"=+ \d+ passed in", text), text


def test_it_can_do_without_a_broker() -> None:
    code, text = pytest_of_a_user("--teardown-broker=simulated", "-k", "not dead_letters", "-ra")

    assert code == 0, text
    assert "teardown_broker is `simulated`, and this test needs a real one" in text


def test_the_report_of_a_run_is_shown_with_the_test_that_fails(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "def test_it(run_ordering):\n"
        "    assert run_ordering('unload-in-destroy-wipe-last').verdict == 'safe'\n"
    )

    code, text = pytest_of_a_user(
        "--teardown-broker=simulated", "--rootdir", str(tmp_path), str(test)
    )

    assert code == 1
    assert "BUG: KASAN: slab-use-after-free in kvm_make_all_cpus_request" in text


@pytest.mark.parametrize(
    "message", ["", ", run.explanation"], ids=["in a section", "in the message"]
)
def test_that_report_is_shown_once(message: str, tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "def test_it(run_ordering):\n"
        "    run_ordering('unload-in-destroy')\n"
        "    run = run_ordering('unload-in-destroy-wipe-last')\n"
        f"    assert run.verdict == 'safe'{message}\n"
    )

    _, text = pytest_of_a_user("--teardown-broker=simulated", "--rootdir", str(tmp_path), str(test))

    assert text.count("BUG: KASAN: slab-use-after-free in kvm_make_all_cpus_request") == 1
    assert text.count("unload-in-destroy-wipe-last: VIOLATED") == 1
    assert text.count("unload-in-destroy: SAFE") == 1


@pytest.mark.rabbitmq
def test_a_second_stack_on_one_broker_is_named_with_the_remedy(lone_node: PrivateNode) -> None:
    with open_lab(LabOptions(broker=lone_node.url, workers=1), print) as lab:
        assert lab.neighbours == ""
        code, text = pytest_of_a_user(f"--teardown-broker={lone_node.url}", "-k", "one_vcpu")

    assert code == 1
    assert "a second stack of services runs at amqp://guest@127.0.0.1:" in text
    assert "Give each stack a virtual host of its own" in text
    assert "Traceback" not in text


@pytest.mark.container
def test_a_user_s_own_testcontainers_broker_takes_the_fixture_s_place(tmp_path: Path) -> None:
    """As docs/testing-your-own.md has it, word for word."""
    need_engine()
    page = (REPOSITORY.parents[1] / "docs" / "testing-your-own.md").read_text(encoding="utf-8")
    (conftest,) = re.findall(r"```python\n(# conftest\.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(
        "def test_it(run_ordering, teardown_broker, our_rabbitmq):\n"
        "    assert teardown_broker.endswith(f':{our_rabbitmq.get_exposed_port(5672)}/%2F')\n"
        "    assert run_ordering('unload-in-destroy').verdict == 'safe'\n"
    )

    code, text = pytest_of_a_user("--rootdir", str(tmp_path), str(tmp_path))

    assert code == 0, text
    assert "1 passed" in text


@pytest.mark.container
@pytest.mark.parametrize("testcontainers", [True, False], ids=["testcontainers", "docker"])
def test_a_container_is_reached_at_the_host_that_is_named(
    testcontainers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it must be where the engine is another host's: not at 127.0.0.1, and with a password."""
    need_engine()
    address = own_address()
    if testcontainers:
        # It reads the environment when it is imported: not while that is changed.
        from testcontainers.core.config import testcontainers_config

        monkeypatch.setattr(testcontainers_config, "tc_host_override", address)
    else:
        for name in ("testcontainers", "testcontainers.community.rabbitmq"):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("TESTCONTAINERS_HOST_OVERRIDE", address)

    with broker_for_tests("container") as url:
        assert f"@{address}:" in url
        assert "guest:guest@" not in url
        assert knock(url).startswith("RabbitMQ ")


def own_address() -> str:
    """Return an address of this machine that is not the loopback's; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        is_routed = probe.connect_ex(("192.0.2.1", 9)) == 0
        need(is_routed, "address of this machine but the loopback's", CONTAINERS)
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("'unload-in-detroy'", "nor a shipped ordering of: zap-all-per-vcpu"),
        ("'unload-in-detroy'", "; did you mean 'unload-in-destroy'?"),
        ("'unload-in-destroy', vcpu=4", "; did you mean 'vcpus'?"),
        ("'unload-in-destroy', nestd=[0]", "; did you mean 'nested'?"),
        ("'unload-in-destroy', vcpus=0", "scenario: vcpus: Input should be greater"),
        ("'unload-in-destroy', vcpu=4", "scenario: vcpu: Extra inputs are not permitted"),
        ("'unload-in-destroy', vcpus=17", "set `teardown_vcpus = 17`"),
        ("'name: x\\nsteps: [free_vpcu]\\n'", "(text):2:"),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong(tmp_path: Path, call: str, words: str) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(f"def test_it(run_ordering):\n    run_ordering({call})\n")

    code, text = pytest_of_a_user(
        "--teardown-broker=simulated", "--rootdir", str(tmp_path), str(test)
    )

    assert code == 1
    assert words in text


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("rabbit", "write auto, private, container, simulated or an amqp:// URL"),
        ("amqp://127.0.0.1:1", "127.0.0.1:1"),
    ],
)
def test_a_broker_that_is_not_there_is_an_error_in_one_line(choice: str, words: str) -> None:
    code, text = pytest_of_a_user(f"--teardown-broker={choice}", "-k", "real_one")

    assert code == 1
    assert f"teardown_broker = {choice}: " in text
    assert words in text
    assert "Traceback" not in text


@pytest.mark.container
@pytest.mark.parametrize("testcontainers", [True, False], ids=["testcontainers", "docker"])
def test_a_container_is_started_with_or_without_testcontainers(
    testcontainers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_engine()
    if not testcontainers:
        for name in ("testcontainers", "testcontainers.community.rabbitmq"):
            monkeypatch.setitem(sys.modules, name, None)

    with broker_for_tests("container") as url:
        assert knock(url).startswith("RabbitMQ ")

    with pytest.raises(BrokerUnavailable):
        knock(url)

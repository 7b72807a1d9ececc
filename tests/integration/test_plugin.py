"""The pytest plugin as a user has it: pytest in a process of its own, in another repository."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.needs import need_engine, need_server

from teardown_lab.broker.address import knock
from teardown_lab.testing import BrokerUnavailable, broker_for_tests

REPOSITORY = Path(__file__).parents[1] / "user_repository"
OURS = ("teardown_lab", "vm_protocol", "vm_manager", "vcpu_worker", "service_runtime", "pika")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
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
    ("call", "words"),
    [
        ("'unload-in-detroy'", "nor a shipped ordering of: zap-all-per-vcpu"),
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

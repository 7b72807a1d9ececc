"""The wheel alone is the product: built, installed into an empty environment, and used from there.

Installed beside it is what requirements.lock has for its dependencies, and pytest for the miniature
repository in tests/user_repository, which knows nothing of this one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.needs import BROKER, need

from vm_manager.catalogue import catalogue_names

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMANDS = ("teardown", "vm-manager", "vcpu-worker")
SECONDS_MAX = 120
NO_INDEX = re.compile(
    r"NewConnectionError|NameResolutionError|Max retries exceeded|No route to host"
)


def needed(*names: str) -> set[str]:
    """Return packages and all that they depend on here, without extras."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            wanted = map(Requirement, metadata.requires(name) or ())
            waiting += [
                canonicalize_name(each.name)
                for each in wanted
                if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


def locked(names: set[str]) -> str:
    """Return the entries that requirements.lock has for packages, hashes included."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    chosen = [entry for entry in entries if canonicalize_name(entry.partition("==")[0]) in names]
    assert len(chosen) == len(names), "everything needed is locked"
    return "".join(chosen)


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it, and a folder in which nothing of the project is."""

    bin: Path
    folder: Path

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's commands."""
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith("PYTHON")
        }
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.folder,
            env={**inherited, "PATH": path, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )


def pip(*arguments: str | Path, python: Path = Path(sys.executable)) -> None:
    """Run pip; a machine that reaches no package index skips (not CI), any other failure fails."""
    quiet = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    command = [str(part) for part in (python, *quiet, *arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and NO_INDEX.search(done.stderr):
        need(None, "package index within reach", BROKER)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("installed")
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    lock = folder / "requirements.txt"
    lock.write_text(locked(needed("teardown-lab", "pytest") - {"teardown-lab"}), encoding="utf-8")
    into = ("--python", python, "install", "--no-deps")
    pip(*into, "--require-hashes", "--requirement", lock)
    pip(*into, "--no-index", wheel)
    pip("--python", python, "check")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    yield Installed(environment / "bin", elsewhere)
    shutil.rmtree(environment)


def test_it_has_its_commands_its_plugin_and_its_orderings(installed: Installed) -> None:
    for command in COMMANDS:
        assert (installed.bin / command).is_file()
    code = (
        "import json, sys; from importlib.metadata import entry_points as found;"
        "import vm_manager; from vm_manager.catalogue import catalogue_names as names;"
        "print(json.dumps([found(group='pytest11').names.__contains__('teardown_lab'),"
        " vm_manager.__file__, names()]))"
    )

    done = installed.run("python", "-c", code)

    has_plugin, file, names = json.loads(done.stdout)
    assert has_plugin
    assert file.startswith(str(installed.bin.parent)), "not the checkout's"
    assert tuple(names) == catalogue_names()
    assert (
        f"version {metadata.version('teardown-lab')}"
        in installed.run("teardown", "--version").stdout
    )


@pytest.mark.parametrize("command", ["vm-manager", "vcpu-worker"])
def test_its_services_start_and_refuse_what_they_cannot_use(
    installed: Installed, command: str
) -> None:
    done = installed.run(command, AMQP_URL="nonsense")

    assert done.returncode == 2
    assert done.stderr.startswith(f"{command}: AMQP_URL:")


@pytest.mark.parametrize("module", ["opentelemetry", "testcontainers"])
def test_what_is_optional_is_not_there(installed: Installed, module: str) -> None:
    assert "ModuleNotFoundError" in installed.run("python", "-c", f"import {module}").stderr


@pytest.mark.rabbitmq
def test_the_demo_runs_from_it(installed: Installed, amqp_url: str) -> None:
    done = installed.run("teardown", "demo", "--broker", "auto")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "broker: RabbitMQ" in done.stdout
    assert f"{len(catalogue_names())} orderings, {len(catalogue_names())} with" in done.stdout


@pytest.mark.rabbitmq
def test_a_run_that_is_to_be_traced_says_what_is_not_installed(
    installed: Installed, own_node: str
) -> None:
    run = ("teardown", "run", "unload-in-destroy", "--broker", own_node)

    done = installed.run(*run, OTEL_TRACES_EXPORTER="otlp")

    assert done.returncode == 0, done.stderr
    assert "tracing.unavailable" in done.stderr
    assert "pip install 'teardown-lab[tracing]'" in done.stderr


@pytest.mark.rabbitmq
def test_a_user_s_repository_tests_its_own_ordering_with_it(
    installed: Installed, amqp_url: str, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(ROOT / "tests" / "user_repository", repository)

    done = installed.run("python", "-m", "pytest", "-p", "no:cacheprovider", str(repository))

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"=+ \d+ passed in", done.stdout), done.stdout

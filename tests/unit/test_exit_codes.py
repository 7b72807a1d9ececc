"""Whatever happens to the command line, 1 says that an ordering was violated and nothing else.

The commands run in processes of their own. Where a moment matters, a finder of imports brings it
about: the signal, or the failure, comes when a named module is about to be imported.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from teardown_lab.cli.commands import teardown as teardown_group

SECONDS = 120
SAFE, WRONG = "unload-in-destroy", "unload-in-destroy-wipe-last"
AT_IMPORT = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class At(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            {deed}

sys.meta_path.insert(0, At())
sys.argv[0] = "teardown"
from teardown_lab.__main__ import main
main()
"""
CTRL_C = "os.kill(os.getpid(), signal.SIGINT)"
BUG = "raise LookupError('amqp://user:secret@host')"


def heard() -> None:
    """Let a child hear Ctrl-C also where the tests themselves run in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(*command: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        preexec_fn=heard,
    )


def teardown(*arguments: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "teardown_lab", *arguments, folder=folder, **more)


def at_import(
    module: str, deed: str, *arguments: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    code = AT_IMPORT.format(module=module, deed=deed)
    return run("-c", code, *arguments, folder=folder)


@pytest.mark.parametrize(
    "module",
    ["click", "teardown_lab.cli.outermost", "teardown_lab.cli.run", "pydantic", "structlog"],
)
def test_ctrl_c_is_130_and_quiet_from_the_first_import_on(module: str, tmp_path: Path) -> None:
    done = at_import(module, CTRL_C, "run", SAFE, "--broker", "simulated", folder=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("importlib.metadata", ["--version"]), ("textwrap", ["--help"])],
    ids=["version", "help"],
)
def test_ctrl_c_is_130_in_click_s_own_work(
    module: str, arguments: list[str], tmp_path: Path
) -> None:
    done = at_import(module, CTRL_C, *arguments, folder=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["orderings", "list"],
        ["orderings", "show", SAFE],
        ["run", WRONG, "--broker", "simulated"],
        ["run", WRONG, "--broker", "simulated", "--json"],
        ["demo", "--broker", "simulated"],
        ["explore", SAFE, "--vcpus", "1"],
    ],
    ids=" ".join,
)
def test_a_closed_pipe_ends_quietly_with_141(arguments: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "teardown_lab", *arguments],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    os.close(writer)

    said = [line for line in done.stderr.splitlines() if not line.startswith("broker: ")]
    assert (done.returncode, said) == (141, [])


def test_a_bug_of_ours_is_4_and_tells_how_to_report_it(tmp_path: Path) -> None:
    done = at_import("vm_manager.catalogue", BUG, "run", SAFE, folder=tmp_path)

    assert (done.returncode, done.stdout) == (4, "")
    (line,) = done.stderr.splitlines()
    assert "a bug of teardown itself" in line
    assert "LookupError at <string>:" in line
    assert "secret" not in line
    report = Path(line.rpartition(" ")[2])
    assert report.is_relative_to(tmp_path)
    assert report.stat().st_mode & 0o077 == 0
    assert "Traceback (most recent call last)" in report.read_text()


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "1e300", "0", "soon"])
def test_a_time_that_is_no_time_is_a_usage_error(
    seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["run", SAFE, "--broker", "simulated", f"--timeout={seconds}"]
    done = CliRunner().invoke(teardown_group, arguments)

    assert done.exit_code == 2
    assert "--timeout" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["vcpus: .nan", "fence_ms: .inf", "fence_ms: -.inf", "async_pf: 1000000000000", "seed: 1e400"],
)
def test_a_scenario_with_a_number_that_is_none_is_a_usage_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text(text)
    arguments = ["run", SAFE, "--broker", "simulated", "--scenario", str(file)]
    done = CliRunner().invoke(teardown_group, arguments)

    assert done.exit_code == 2
    assert f"{file}:1:" in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["orderings", "validate"],
        ["orderings", "show"],
        ["orderings", "diff", SAFE],
        ["run", "--broker", "simulated"],
        ["run", SAFE, "--broker", "simulated", "--scenario"],
        ["explore"],
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(arguments: list[str]) -> None:
    """The kernel gives no byte of this file, not even to root."""
    done = CliRunner().invoke(teardown_group, [*arguments, "/proc/self/mem"])

    assert done.exit_code == 2
    assert "/proc/self/mem:1:1: cannot be read: Input/output error" in done.output


@pytest.mark.parametrize(
    ("broker", "words"),
    [
        ("nonsense", "'nonsense' is no broker"),
        ("simulatd", "did you mean simulated?"),
        ("localhost:5672", "did you mean amqp://localhost:5672?"),
        ("http://localhost:15672", "try amqp://localhost:5672"),
        ("amqp://guest:secret@host:99999", "port"),
        ("amqp://guest:secret@host:port", "port"),
        ("guest:secret@host", "'host' is no broker"),
        ("guest:secret", "write auto, simulated, or a URL"),
        ("", "write auto, simulated, or a URL"),
    ],
)
@pytest.mark.parametrize("command", [["run", SAFE], ["demo"], ["replay", "td1.x"], ["bench"]])
def test_what_is_no_broker_is_a_usage_error_that_shows_no_password(
    command: list[str], broker: str, words: str
) -> None:
    done = CliRunner().invoke(teardown_group, [*command, "--broker", broker])

    assert done.exit_code == 2
    assert words in done.output
    assert "secret" not in done.output


@pytest.mark.parametrize("url", ["nonsense", "amqp://guest:secret@host:port"])
def test_an_amqp_url_that_is_none_is_a_usage_error_too(url: str, tmp_path: Path) -> None:
    done = teardown("run", SAFE, folder=tmp_path, AMQP_URL=url)

    assert done.returncode == 2
    assert "AMQP_URL" in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(("ordering", "code"), [(SAFE, 4), (WRONG, 1)])
def test_a_junit_file_that_cannot_be_written_loses_neither_json_nor_verdict(
    ordering: str, code: int, tmp_path: Path
) -> None:
    arguments = ["--broker", "simulated", "--json", "--junit", "no/such/folder/junit.xml"]
    done = teardown("run", ordering, *arguments, folder=tmp_path)

    assert done.returncode == code
    assert json.loads(done.stdout)["ordering"] == ordering
    assert "JUnit file no/such/folder/junit.xml cannot be written" in done.stderr


def test_an_output_that_takes_nothing_is_no_verdict(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "teardown_lab", "run", WRONG, "--broker", "simulated"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    assert done.returncode == 4
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr

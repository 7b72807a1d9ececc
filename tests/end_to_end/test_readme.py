"""What README and docs show is what the commands print.

A block marked `console` is a line `$ COMMAND` and its output, in which `[...]` stands for lines
left out. A block marked `yaml` whose first line is a comment such as `# mine.yaml` is that file.
The commands of a page run one after the other in a folder of their own, each on a RabbitMQ of its
own where rabbitmq-server is installed, as they do for a reader.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from teardown_lab.own_broker.private_node import server_script
from vm_manager.catalogue import catalogue_entry, catalogue_names

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
STAND_INS = {"make demo": "teardown demo"}
"""What a test runs instead: `make` would set up the environment that the test runs in."""

CUT = "[...]"
SECONDS_MAX = 120
VARYING = (
    (r"^setup: .*\n", ""),
    (r"^broker: RabbitMQ .*$", "broker: RabbitMQ"),
    (r"RabbitMQ \d+\.\d+\.\d+", "RabbitMQ VERSION"),
    (r"\bvm-[0-9a-f]{8}\b", "vm-ID"),
    (r"\bworker-[0-9a-f]{6}-\d+\b", "worker-ID"),
    (r"/request/\d+", "/request/GENERATION"),
    (r"\b\d+\.\d{3}\b", "SECONDS"),
    (r"\bin \d+ s$", "in SECONDS s"),
    (r"\b\d+\.\d\d s \(reduced\)", "SECONDS s (reduced)"),
    (r"\btd1\.\S+", "TOKEN"),
    (r"\bresults/\S+/", "results/RUN/"),
    (r" {2,}", " "),
)


def normalised(text: str) -> str:
    """Return an output without what varies from run to run.

    Taken out are ports and versions of the broker, ids of VMs and workers, generations (the ticker
    may take some before the teardown), times, folders of histories, the width of columns, and all
    of a row of `teardown demo` but its name where the ordering is racy.
    """
    for pattern, shown in VARYING:
        text = re.sub(pattern, shown, text, flags=re.MULTILINE)
    for name in catalogue_names():
        if catalogue_entry(name).racy:
            text = re.sub(rf"^{name} .*$", f"{name} RACY", text, flags=re.MULTILINE)
    return text.strip() + "\n"


@dataclass(frozen=True)
class Shown:
    """A command and what a page says that it prints."""

    command: str
    output: str

    @property
    def exit_code(self) -> int:
        """The code that goes with the output: 1 for a violation, 2 for an error in a file."""
        if re.search(r"^\S+\.yaml:\d+:\d+: |^teardown: \S+\.yaml:", self.output, re.MULTILINE):
            return 2
        return 1 if ": VIOLATED" in self.output else 0


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield each fenced block's mark and text."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield block[1], block[2]


def commands(text: str) -> Iterator[Shown]:
    """Yield the commands of a console block."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield Shown(command, output)


def matches(shown: str, actual: str) -> bool:
    """Tell whether an output is the one shown, with any lines where the page has a cut."""
    lines = (
        r"(?:.*\n)*?" if line.strip() == CUT else re.escape(line)
        for line in shown.splitlines(keepends=True)
    )
    return re.fullmatch("".join(lines), actual) is not None


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a reader who has activated .venv."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    environment.pop("AMQP_URL", None)
    if server_script() is None:
        environment["AMQP_URL"] = request.getfixturevalue("amqp_url")
    return environment


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(mark == "console" for mark, _ in blocks(page))],
    ids=lambda page: page.name,
)
def test_the_commands_of_a_page_print_what_it_shows(
    page: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    for mark, text in blocks(page):
        name = re.match(r"# (\S+\.yaml)\n", text)
        if mark == "yaml" and name is not None:
            (tmp_path / name[1]).write_text(text, encoding="utf-8")
        for shown in commands(text) if mark == "console" else ():
            _hold_against(shown, environment, tmp_path)


def _hold_against(shown: Shown, environment: dict[str, str], folder: Path) -> None:
    command = shlex.split(STAND_INS.get(shown.command, shown.command))
    assert command[0] == "teardown", f"{shown.command}: only teardown is run here"

    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )

    expected, actual = normalised(shown.output), normalised(done.stdout)
    if CUT not in expected:
        assert actual == expected, f"$ {shown.command}"
    assert matches(expected, actual), f"$ {shown.command} prints\n{actual}\ninstead of\n{expected}"
    assert done.returncode == shown.exit_code, f"$ {shown.command}"


def test_a_cut_stands_for_any_lines_and_nothing_else_does() -> None:
    assert matches("a\n[...]\nd\n", "a\nb\nc\nd\n")
    assert matches("a\n[...]\nd\n", "a\nd\n")
    assert not matches("a\n[...]\nd\n", "a\nb\n")
    assert not matches("a\nd\n", "a\nb\nd\n")


def test_what_varies_is_taken_out_and_counts_are_not() -> None:
    text = "broker: RabbitMQ 3.10.8, a private node on port 40001\nsafe  10   0.041\n"

    assert normalised(text) == "broker: RabbitMQ\nsafe 10 SECONDS\n"

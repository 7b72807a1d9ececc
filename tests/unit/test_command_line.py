"""`teardown --help` knows every command without importing it, and each is where it says."""

import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import teardown_lab.cli
from teardown_lab.cli.commands import CLI_COMMANDS, LateGroup
from teardown_lab.cli.commands import teardown as main

HEAVY = ("pika", "pydantic", "structlog", "prometheus_client")


@pytest.mark.parametrize("name", CLI_COMMANDS)
def test_each_command_is_in_the_file_of_its_name(name: str) -> None:
    assert isinstance(main, LateGroup)
    assert main.load(name).name == name


def test_no_command_is_left_out() -> None:
    (folder,) = teardown_lab.cli.__path__
    files = {path.stem for path in Path(folder).glob("*.py")}

    assert set(CLI_COMMANDS) <= files
    commands = {name for name in files if "@click.command()" in _text(folder, name)}
    assert commands <= set(CLI_COMMANDS)


@pytest.mark.parametrize("name", ["run", "explore"])
def test_a_command_of_many_options_has_them_as_the_fields_of_a_class(name: str) -> None:
    assert isinstance(main, LateGroup)
    command = main.load(name)
    flags = getattr(import_module(f"teardown_lab.cli.{name}"), f"{name.title()}Flags")

    options = [each.name for each in command.params if isinstance(each, click.Option)]

    assert options == [field.name for field in fields(flags)]


def test_help_names_every_command_and_imports_none() -> None:
    lines = CliRunner().invoke(main, ["--help"]).output.splitlines()

    for name, line in CLI_COMMANDS.items():
        assert any(shown.split() == [name, *line.split()] for shown in lines), name
    code = (
        "import sys, teardown_lab.__main__, teardown_lab.cli.outermost, teardown_lab.cli.commands;"
        "print([m for m in sys.argv[1:] if m in sys.modules])"
    )
    imported = subprocess.run(
        [sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True
    )
    assert imported.stdout.strip() == "[]"


def test_a_command_that_is_not_there_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["raze"])

    assert result.exit_code == 2
    assert "No such command 'raze'" in result.output


def test_an_ordering_that_costs_too_much_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "again.yaml"
    file.write_text("name: again\nsteps:\n" + "  - zap_all_roots\n" * 40, encoding="utf-8")

    result = CliRunner().invoke(main, ["run", str(file), "--vcpus", "128", "--broker", "simulated"])

    assert result.exit_code == 2
    assert f"{file}:3:5: `zap_all_roots` (step 1) makes 16,512 messages" in result.output
    assert not (tmp_path / "results").exists()


def _text(folder: str, name: str) -> str:
    return (Path(folder) / f"{name}.py").read_text(encoding="utf-8")

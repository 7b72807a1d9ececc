"""Rules of the house that no linter checks; no waivers: split by noun instead."""

import ast
import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from vm_protocol.effects import Effect

ROOT = Path(__file__).parents[2]
OURS = ("services", "shared", "teardown_lab", "tests", "benchmarks", "experiments")
DOCUMENTED = ("services", "shared", "teardown_lab")
CORES = ("services/vm_manager", "services/vcpu_worker", "shared/vm_protocol")

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50
FIELDS_MAX = 20

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 10 or folders != OURS, "the folders have moved"
    return sorted(files)


def place(file: Path, node: ast.AST | None = None) -> str:
    line = f":{getattr(node, 'lineno', 1)}" if node else ""
    return f"{file.relative_to(ROOT)}{line}"


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def functions(file: Path) -> list[Function]:
    return [node for node in ast.walk(parsed(file)) if isinstance(node, Function)]


def length(function: Function) -> int:
    """Return a function's lines without its docstring."""
    assert function.end_lineno is not None
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        place(file): count
        for file in python_files(*OURS)
        if (count := len(file.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    }

    assert long == {}


def test_no_function_is_longer_than_50_lines_without_its_docstring() -> None:
    long = {
        f"{place(file, function)} {function.name}": length(function)
        for file in python_files(*OURS)
        for function in functions(file)
        if length(function) > FUNCTION_LINES_MAX
    }

    assert long == {}


def test_no_dataclass_has_more_than_20_fields() -> None:
    wide = {
        f"{place(file, node)} {node.name}": count
        for file in python_files(*OURS)
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.ClassDef)
        and any("dataclass" in ast.unparse(each) for each in node.decorator_list)
        and (count := sum(isinstance(each, ast.AnnAssign) for each in node.body)) > FIELDS_MAX
    }

    assert wide == {}


def test_everything_public_has_a_docstring() -> None:
    bare = [
        f"{place(file, node)} {getattr(node, 'name', 'module')}"
        for file in python_files(*DOCUMENTED)
        for node in public(parsed(file))
        if ast.get_docstring(node) is None
    ]

    assert bare == []


def public(
    node: ast.Module | ast.ClassDef,
) -> list[ast.Module | ast.ClassDef | Function]:
    """Return a module or class with the public classes and functions in it."""
    found: list[ast.Module | ast.ClassDef | Function] = [node]
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            found += public(child)
        if isinstance(child, Function) and not child.name.startswith("_"):
            found.append(child)
    return found


# --- cores are pure ------------------------------------------------------------------------

IMPURE_MODULES = {
    "asyncio",
    "datetime",
    "os",
    "random",
    "secrets",
    "selectors",
    "signal",
    "socket",
    "subprocess",
    "sys",
    "threading",
    "time",
    "uuid",
}
IMPURE_CALLS = re.compile(
    r"\b(open|print|input|exec|eval|id|__import__|hash)$|\.(now|today|utcnow|urandom|uuid[1-8])$"
)


def impurities(tree: ast.Module) -> list[str]:
    """Return imports and calls by which something else than its arguments reaches a core."""
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        found += [
            f"{node.lineno}: import {name}"
            for name in names
            if isinstance(node, ast.stmt) and name.partition(".")[0] in IMPURE_MODULES
        ]
        if isinstance(node, ast.Call) and IMPURE_CALLS.search(ast.unparse(node.func)):
            found.append(f"{node.lineno}: {ast.unparse(node.func)}()")
    return found


def test_cores_know_no_clock_no_randomness_no_ids_and_no_world_outside() -> None:
    cores = [file for file in python_files(*CORES) if file.name != "__main__.py"]

    found = {place(file): impurities(parsed(file)) for file in cores}

    assert {where: what for where, what in found.items() if what} == {}


@pytest.mark.parametrize("name", ["client.py", "standing.py"])
def test_the_client_of_a_run_is_a_core_too_and_holds_nothing_to_call(name: str) -> None:
    tree = parsed(ROOT / "teardown_lab/experiment" / name)

    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.alias)}

    assert impurities(tree) == []
    assert not names & {"Callable", "Settlement", "Path"}


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "from datetime import datetime",
        "import os.path as path",
        "at = clock.now()",
        "name = ids.uuid4()",
        "file = open('x')",
        "print(1)",
    ],
)
def test_the_search_for_impurities_finds(line: str) -> None:
    assert len(impurities(ast.parse(line))) == 1


# --- effects go out ------------------------------------------------------------------------

EFFECTS = {kind.__name__ for kind in get_args(Effect)}


def read_back(tree: ast.Module) -> list[str]:
    """Return where code asks of which kind an effect is."""
    found = []
    for node in ast.walk(tree):
        kinds: list[ast.expr] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            kinds = [each for each in ast.walk(node.args[1]) if isinstance(each, ast.expr)]
        if isinstance(node, ast.MatchClass):
            kinds = [node.cls]
        names = {ast.unparse(kind).rpartition(".")[2] for kind in kinds}
        found += [f"{node.lineno}: {name}" for name in sorted(names & EFFECTS)]
    return found


def test_services_return_what_happened_and_do_not_read_it_off_their_effects() -> None:
    files = python_files("services/vm_manager", "services/vcpu_worker")

    found = {place(file): read_back(parsed(file)) for file in files}

    assert {where: what for where, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "line",
    [
        "any(isinstance(each, Observed) for each in effects)",
        "isinstance(effect, effects.Publish)",
        "isinstance(effect, str | Reject)",
        "match effect:\n    case Publish():\n        pass",
    ],
)
def test_the_search_for_effects_that_are_read_back_finds(line: str) -> None:
    assert len(read_back(ast.parse(line))) == 1


# --- what nobody writes -----------------------------------------------------------------------

BANNED = {
    "postponed work is an issue, not a comment": r"\b(FIXME|TODO|XXX)\b",
    "paths of one computer": r"/(work|home|root|Users)/[a-z]",
    "numbers of a tracker": r"\bissues? #?\d+",
}
ALLOWED = {
    "tests/architecture/test_tidy.py": "names what it searches for",
}


def tracked_texts() -> list[Path]:
    """Return the text files that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.splitlines()]
    return [file for file in files if file.is_file() and b"\0" not in file.read_bytes()[:1024]]


def test_everything_in_the_repository_is_text() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = {ROOT / name for name in listed.stdout.splitlines()}

    assert {file for file in files if file.is_file()} - set(tracked_texts()) == set()


def test_only_one_file_lets_tests_be_skipped_for_what_a_machine_lacks() -> None:
    """There CI's variables turn a skip into a failure."""
    skipping = {
        place(file)
        for file in (ROOT / "tests").rglob("*.py")
        if re.search(r"\bpytest\.skip\(", file.read_text(encoding="utf-8"))
    }

    assert skipping == {"tests/support/needs.py"}


@pytest.mark.parametrize("why", BANNED)
def test_nobody_writes(why: str) -> None:
    pattern = re.compile(BANNED[why], re.IGNORECASE if "tracker" in why else 0)

    found = [
        f"{place(file)}:{number}: {line.strip()[:80]}"
        for file in tracked_texts()
        if place(file) not in ALLOWED
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]

    assert found == []

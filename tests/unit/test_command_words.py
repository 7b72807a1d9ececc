"""What the command line says where a user is nearly right, and how wide it says it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from teardown_lab.cli.commands import teardown
from teardown_lab.cli.output import is_rich
from vm_manager.catalogue import catalogue_names
from vm_manager.kernel_words import STEP_OF_FUNCTION
from vm_protocol.ordering import LOOP, VCPU_STEPS, VM_STEPS

SIMULATED = ["--broker", "simulated"]


def said(*arguments: str, **environment: str) -> tuple[int, str]:
    done = CliRunner(env=environment).invoke(teardown, list(arguments))
    return done.exit_code, done.output


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unload-in-detroy", "did you mean unload-in-destroy"),
        ("unload_in_destroy", "did you mean unload-in-destroy"),
        ("paralel-destroy", "did you mean parallel-destroy"),
        ("kvm_mmu_zap_all", "KVM's function for the step `zap_all_roots`"),
        ("e447212593a0", "that commit belongs to unload-in-destroy"),
        ("e447212593a0f1e2d3c4b5a697887766554433221100"[:40], "that commit belongs to unload"),
        ("deadbeefdead", "of that commit none is known"),
        ("unload-in-destroy.yaml", "the shipped ordering is called unload-in-destroy"),
        ("mine.yml", "there is no file mine.yml; did you mean mein.yml?"),
        ("zzz", "shipped are zap-all-per-vcpu"),
    ],
)
def test_a_name_that_is_no_ordering_s_gets_the_one_that_is_meant(
    name: str, words: str, folder: Path
) -> None:
    (folder / "mein.yml").write_text("name: mein")

    code, text = said("run", name, *SIMULATED)

    assert code == 2
    assert words in text


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("[kvm_mmu_zap_all]", "KVM's function for the step `zap_all_roots`; valid"),
        ("[kvm_mmu_unload]", "the step `unload_mmu`, which belongs inside for_each_vcpu"),
        ("[{for_each_vcpu: [kvm_mmu_unload()]}]", "KVM's function for the step `unload_mmu`;"),
        ("[{for_each_vcpu: [free_vpcu]}]", "did you mean `free_vcpu`?"),
        ("[free_vpcu]", "did you mean `free_vcpu`, which belongs inside for_each_vcpu?"),
        ("[{for_each_vcpu: [unint_mmu]}]", "did you mean `uninit_mmu`, which belongs outside"),
        ("[frobnicate]", "unknown VM step `frobnicate`: valid are"),
    ],
)
def test_a_step_s_word_that_is_none_gets_the_one_that_is_meant(
    steps: str, words: str, folder: Path
) -> None:
    (folder / "mine.yaml").write_text(f"name: mine\ntitle: Mine\nsteps: {steps}\n")

    code, text = said("orderings", "validate", "mine.yaml")

    assert code == 2
    assert words in text


def test_every_kernel_function_stands_for_a_word_of_the_language() -> None:
    assert set(STEP_OF_FUNCTION.values()) == {*VM_STEPS, *VCPU_STEPS, LOOP}


@pytest.mark.parametrize("commit", ["abc", "v6.15", "E447212593A0", "e447212593a0 (part)"])
def test_a_commit_that_is_none_is_told_its_form(commit: str, folder: Path) -> None:
    kernel = f"kernel: {{versions: x, commit: {commit!r}}}"
    (folder / "mine.yaml").write_text(f"name: m\ntitle: M\n{kernel}\nsteps: [uninit_mmu]\n")

    code, text = said("orderings", "validate", "mine.yaml")

    assert code == 2
    assert "12 to 40 hexadecimal digits, such as e447212593a0" in text


def test_a_scenario_s_field_that_is_none_gets_the_one_that_is_meant(folder: Path) -> None:
    (folder / "mine.yaml").write_text("vcpu: 4")

    code, text = said("run", "unload-in-destroy", *SIMULATED, "--scenario", "mine.yaml")

    assert code == 2
    assert "unknown key `vcpu`: valid are vcpus" in text
    assert "did you mean `vcpus`?" in text


def test_a_token_that_was_cut_short_or_changed_is_told_so() -> None:
    _, text = said("explore", "ticker-left-running", "--vcpus", "2")
    token = text.split()[-1]
    assert said("replay", token, *SIMULATED)[0] == 1
    broken = f"{token[:40]}\n  {token[40:]}"

    assert said("replay", broken, *SIMULATED)[0] == 1
    for wrong in (token[:-9], token[:30] + "x" + token[31:], token.replace("-", "+") + "!", "td1."):
        code, text = said("replay", wrong, *SIMULATED)
        assert code == 2, wrong
        assert "Error -" not in text
        assert "base64" not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"name: x\ntitle: X\nsteps:\n  - uninit_mmu\n", "an ordering: `teardown run given`"),
        (b"vcpus: 4\nmmu: tdp\n", "a scenario"),
        (b"# tracer: function_graph\n#\n", "a recording of ftrace"),
        (b"\x17\x08\x44tracing6\0", "a recording of trace-cmd"),
        (b"\x7fELF\x02\x01", "a program"),
        (b"PK\x03\x04....", "a zip archive"),
        (b"<?xml version='1.0'?><testsuite/>", "an XML file"),
        (b"td1.eNpFkNtO", "the token of a schedule"),
        (b"\0\1\2\3", "no text"),
    ],
)
def test_check_says_what_a_file_is_that_is_no_history(
    content: bytes, words: str, folder: Path
) -> None:
    (folder / "given").write_bytes(content)

    code, text = said("check", "given")

    assert code == 2
    assert f"given is no history: it is {words}" in text


def test_check_knows_what_other_commands_have_written(folder: Path) -> None:
    _, text = said("run", "unload-in-destroy", *SIMULATED, "--json")
    (folder / "run.json").write_text(next(each for each in text.splitlines() if each[0] == "{"))
    said("explore", "ticker-left-running", "--vcpus", "2", "--save", "found.json")
    history = json.loads((folder / "run.json").read_text())["history"]

    assert (
        f"`teardown run --json` has printed; its history is {history}"
        in said("check", "run.json")[1]
    )
    assert "`teardown replay found.json` takes it" in said("check", "found.json")[1]
    assert "a folder without history.jsonl.gz" in said("check", ".")[1]


@pytest.mark.parametrize("command", [["demo", *SIMULATED], ["orderings", "list"]])
def test_eighty_columns_are_enough(command: list[str]) -> None:
    code, text = said(*command, COLUMNS="80")

    assert code == 0
    assert [line for line in text.splitlines() if len(line) > 79] == []
    assert all(name in text for name in catalogue_names())


def test_what_demo_explains_is_broken_between_words() -> None:
    _, text = said("demo", "--explain", *SIMULATED, COLUMNS="80")

    assert [line for line in text.splitlines() if len(line) > 79] == []
    assert "With one vCPU it always ends." in text


def test_a_pipe_gets_lines_of_any_length() -> None:
    assert "kernels" in said("demo", *SIMULATED)[1].splitlines()[1]


class Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("term", "is_shown"), [("dumb", False), ("xterm-256color", True)])
def test_a_dumb_terminal_gets_no_escapes(
    term: str, is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)

    assert is_rich(Terminal()) == is_shown

"""results/: compressed, bounded, and nothing of anybody else's is touched."""

import gzip
import os
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from teardown_lab import results
from teardown_lab.cli.commands import teardown
from vm_protocol import limits

OLD = 1_700_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keep(day: int, size: int, name: str = "history.jsonl.gz", at: int = OLD) -> Path:
    """Put a run of some day there, as if it had been written long ago."""
    run = results.RESULTS / f"202611{day:02}T120000.000000-unload-in-destroy-vm-{day:08x}"
    run.mkdir(parents=True)
    (run / name).write_bytes(bytes(size))
    os.utime(run / name, (at, at))
    return run


def test_a_run_s_history_is_compressed_and_every_command_reads_it(folder: Path) -> None:
    done = CliRunner().invoke(teardown, ["run", "unload-in-destroy", "--broker", "simulated"])

    (history,) = folder.glob("results/*/*")
    assert history.name == "history.jsonl.gz"
    assert f"history: {history.relative_to(folder)}" in done.output
    text = gzip.decompress(history.read_bytes())
    assert len(text) > 8 * history.stat().st_size
    for named in (history, history.parent):
        checked = CliRunner().invoke(teardown, ["check", str(named)])
        assert (checked.exit_code, "SAFE" in checked.output) == (0, True)


@pytest.mark.parametrize(("name", "is_packed"), [("mine.jsonl", False), ("mine.jsonl.gz", True)])
def test_a_history_that_the_user_names_is_written_under_that_name(
    name: str, is_packed: bool, folder: Path
) -> None:
    arguments = ["run", "unload-in-destroy", "--broker", "simulated", "--history", name]
    assert CliRunner().invoke(teardown, arguments).exit_code == 0

    assert (folder / name).read_bytes().startswith(b"\x1f\x8b") == is_packed
    assert not (folder / "results").exists()
    assert CliRunner().invoke(teardown, ["check", name]).exit_code == 0


def test_the_oldest_runs_give_way_and_that_is_said(folder: Path) -> None:
    runs = [keep(day, 1_000) for day in (3, 1, 2, 4)]

    said = results.remove_oldest(bytes_max=2_500)

    assert [run.exists() for run in runs] == [True, False, False, True]
    assert "removed the 2 oldest runs from results/" in said
    assert results.remove_oldest(bytes_max=2_500) == ""


def test_what_is_not_a_run_s_alone_is_never_removed(folder: Path) -> None:
    noted = keep(1, 1_000)
    (noted / "my-notes.txt").write_text("why this one matters")
    mine = results.RESULTS / "keep-this"
    mine.mkdir()
    (mine / "history.jsonl").write_bytes(bytes(5_000))
    old_form = keep(2, 1_000, "history.jsonl")

    results.remove_oldest(bytes_max=0)

    assert (noted.exists(), mine.exists(), old_form.exists()) == (True, True, False)


def test_a_run_that_may_go_on_beside_this_one_stays(folder: Path) -> None:
    young = keep(1, 1_000)
    os.utime(young / "history.jsonl.gz")

    assert results.remove_oldest(bytes_max=0) == ""
    assert young.exists()


def test_a_command_says_what_its_results_have_displaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keep(1, limits.RESULTS_BYTES_MAX + 1)
    done = CliRunner().invoke(teardown, ["run", "unload-in-destroy", "--broker", "simulated"])

    assert done.exit_code == 0
    assert "results: removed the 1 oldest run from results/, which keeps 256 MiB" in done.output
    assert not kept.exists()


def test_a_history_that_a_kill_has_cut_off_gives_what_it_has(folder: Path) -> None:
    """Cut anywhere: never a traceback, never safe."""
    CliRunner().invoke(
        teardown,
        ["run", "unload-in-destroy", "--broker", "simulated", "--history", "whole.jsonl.gz"],
    )
    whole = (folder / "whole.jsonl.gz").read_bytes()
    seed = int(os.environ.get("TEARDOWN_TEST_SEED", "8"))
    print(f"seed {seed}")
    cuts = random.Random(seed).sample(range(1, len(whole) - 1), 12)
    for cut in [*cuts, len(whole) - 1]:
        (folder / "cut.jsonl.gz").write_bytes(whole[:cut])
        done = CliRunner().invoke(teardown, ["check", "cut.jsonl.gz"])
        assert done.exit_code in (2, 3), cut


def test_a_history_that_is_damaged_is_said_to_be(folder: Path) -> None:
    packed = bytearray(gzip.compress(b'{"schema": 1}\n' * 500))
    packed[len(packed) // 2] ^= 0xFF
    packed[-6] ^= 0xFF
    (folder / "damaged.jsonl.gz").write_bytes(packed)

    done = CliRunner().invoke(teardown, ["check", "damaged.jsonl.gz"])

    assert done.exit_code == 2
    assert "damaged.jsonl.gz" in done.output

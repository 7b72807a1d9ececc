"""What killed runs leave behind is found and removed, and nothing else is; with real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from teardown_lab.leftovers.clean_up import Leftover, find_leftovers, remove
from teardown_lab.leftovers.processes import ProcessIdentity, boot_id, carrying, identify, is_alive
from teardown_lab.leftovers.run_folder import RunFolder, RunFolderError
from teardown_lab.leftovers.run_record import RUN_VARIABLE

OWNER = """
import subprocess, sys, time
from teardown_lab.leftovers.run_folder import RunFolder
run = RunFolder().open()
child = run.spawn(["sleep", "300"], "a sleeper", stdout=subprocess.DEVNULL)
print(run.path, child.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture(autouse=True)
def folder_for_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the runs of these tests apart from the user's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"teardown-lab-{os.getuid()}"


@pytest.fixture
def killed_owner() -> Iterator[tuple[Path, ProcessIdentity]]:
    """A run whose owner was killed with SIGKILL; its folder and its surviving child."""
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        folder, child_pid = owner.stdout.readline().split()
        owner.kill()
    child = identify(int(child_pid))
    assert child is not None
    yield Path(os.fsdecode(folder)), child
    if is_alive(child):
        os.kill(child.pid, signal.SIGKILL)


def a_process_that_has_ended() -> ProcessIdentity:
    with subprocess.Popen(["sleep", "300"]) as process:
        identity = identify(process.pid)
        process.kill()
    assert identity is not None
    return identity


def leave_a_folder(base: Path, owner: ProcessIdentity, text: str | None) -> Path:
    folder = base / f"{owner.pid}-{owner.start}-1"
    folder.mkdir(mode=0o700, parents=True)
    if text is not None:
        (folder / "run.json").write_text(text)
    return folder


def test_a_run_that_ends_leaves_neither_folder_nor_process(folder_for_runs: Path) -> None:
    with RunFolder() as run:
        child = run.spawn(["sleep", "300"], "a sleeper")
        (run.path / "a file").write_text("text")
        assert identify(child.pid) is not None

    assert identify(child.pid) is None
    assert not folder_for_runs.exists()


def test_a_run_that_fails_leaves_nothing_either(folder_for_runs: Path) -> None:
    started = []

    def fail() -> None:
        with RunFolder() as run:
            started.append(run.spawn(["sleep", "300"], "a sleeper"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert identify(started[0].pid) is None
    assert not folder_for_runs.exists()


def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teardown_lab.leftovers.run_record._GRACE_SECONDS", 0.1)
    with RunFolder() as run:
        child = run.spawn(
            ["bash", "-c", "trap '' TERM; echo ready; sleep 300 & wait; wait"],
            "a stubborn one",
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    child.stdout.close()

    assert identify(child.pid) is None


def test_a_child_has_a_session_of_its_own_so_that_ctrl_c_spares_it() -> None:
    with RunFolder() as run:
        child = run.spawn(["sleep", "300"], "a sleeper")

        assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_the_folder_and_the_record_are_for_their_owner_only(folder_for_runs: Path) -> None:
    with RunFolder() as run:
        run.add_queues("amqp://user:secret@127.0.0.1:1/%2F", [])

        for path in (folder_for_runs, run.path, run.path / "run.json"):
            assert path.stat().st_mode & 0o077 == 0
        run.forget_queues()


def test_a_folder_for_runs_that_is_a_link_is_refused(folder_for_runs: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder_for_runs.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RunFolderError, match="belongs to somebody else"):
        RunFolder().open()

    assert find_leftovers() == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_for_runs_of_somebody_else_is_refused(folder_for_runs: Path) -> None:
    folder_for_runs.mkdir()
    os.chown(folder_for_runs, 65534, 65534)

    with pytest.raises(RunFolderError, match="belongs to somebody else"):
        RunFolder().open()

    assert find_leftovers() == []


def test_living_runs_are_not_leftovers_and_are_not_removed() -> None:
    with RunFolder() as first, RunFolder() as second:
        child = first.spawn(["sleep", "300"], "a sleeper")
        owner = identify(os.getpid())
        assert owner is not None

        assert first.run_id != second.run_id
        assert find_leftovers() == []
        assert remove(Leftover(first.run_id, first.path, owner)) == []
        assert child.poll() is None


def test_a_run_whose_owner_cannot_be_seen_but_holds_the_lock_is_not_removed() -> None:
    """So it is where the owner is in another container that shares the folder."""
    with RunFolder() as run:
        unseen = Leftover(run.run_id, run.path, a_process_that_has_ended())

        assert remove(unseen) == []
        assert run.path.exists()


def test_what_a_killed_run_left_is_found_and_removed(
    killed_owner: tuple[Path, ProcessIdentity], folder_for_runs: Path
) -> None:
    folder, child = killed_owner
    (leftover,) = find_leftovers()

    lines = remove(leftover)

    assert leftover.folder == folder
    assert lines == [f"process {child.pid} (a sleeper)", f"folder {folder}"]
    assert not is_alive(child)
    assert not folder_for_runs.exists()
    assert find_leftovers() == []
    assert remove(leftover) == []


def test_a_child_that_was_started_but_not_yet_recorded_is_found_by_its_mark(
    killed_owner: tuple[Path, ProcessIdentity],
) -> None:
    folder, child = killed_owner
    record = json.loads((folder / "run.json").read_text())
    record["processes"] = []
    (folder / "run.json").write_text(json.dumps(record))
    assert carrying(RUN_VARIABLE, folder.name) == [child]

    (leftover,) = find_leftovers()
    lines = remove(leftover)

    assert lines == [f"process {child.pid} (started by the run)", f"folder {folder}"]
    assert not is_alive(child)


@pytest.mark.parametrize("field", ["start", "boot"])
def test_a_process_that_has_a_recorded_pid_by_chance_is_not_ended(
    field: str, folder_for_runs: Path
) -> None:
    with subprocess.Popen(["sleep", "300"]) as bystander:
        identity = identify(bystander.pid)
        assert identity is not None
        start = identity.start - (1 if field == "start" else 0)
        record = {
            "boot": "another boot" if field == "boot" else boot_id(),
            "processes": [{"pid": bystander.pid, "start": start, "role": "an old one"}],
            "containers": [],
            "queues": [],
        }
        folder = leave_a_folder(folder_for_runs, a_process_that_has_ended(), json.dumps(record))

        (leftover,) = find_leftovers()
        lines = remove(leftover)

        assert lines == [f"folder {folder}"]
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("text", [None, "", '{"boot": "', "[]", '{"boot": ""}'])
def test_a_folder_without_a_readable_record_is_removed_once_it_is_old(
    text: str | None, folder_for_runs: Path
) -> None:
    folder = leave_a_folder(folder_for_runs, a_process_that_has_ended(), text)
    assert find_leftovers() == []

    old = time.time() - 60
    os.utime(folder, (old, old))
    (leftover,) = find_leftovers()

    assert remove(leftover) == [f"folder {folder}"]


def test_a_half_made_folder_of_a_living_run_is_left_alone(folder_for_runs: Path) -> None:
    owner = identify(os.getpid())
    assert owner is not None
    folder = leave_a_folder(folder_for_runs, owner, None)
    os.utime(folder, (0, 0))

    assert find_leftovers() == []


def test_a_folder_of_another_name_is_not_ours(folder_for_runs: Path) -> None:
    (folder_for_runs / "notes").mkdir(parents=True)

    assert find_leftovers() == []


def test_queues_that_cannot_be_deleted_are_kept_on_record_without_the_password(
    folder_for_runs: Path,
) -> None:
    queues = {"url": "amqp://user:secret@127.0.0.1:1/%2F", "names": ["a"], "exchanges": []}
    record = {"boot": "", "processes": [], "containers": [], "queues": [queues]}
    folder = leave_a_folder(folder_for_runs, a_process_that_has_ended(), json.dumps(record))
    (leftover,) = find_leftovers()

    lines = remove(leftover)

    assert folder.exists()
    assert "secret" not in "\n".join(lines)
    assert "no broker answers at amqp://user@127.0.0.1:1/%2F" in lines[0]
    assert find_leftovers() == [leftover]


def test_a_broker_that_does_not_answer_is_asked_once_and_takes_one_line(
    folder_for_runs: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0)
        urls = [f"amqp://127.0.0.1:{silent.getsockname()[1]}/%2F", "amqp://127.0.0.1:1/%2F"]
        queues = [{"url": urls[n % 2], "names": ["a", "b"], "exchanges": ["e"]} for n in range(100)]
        vms = [{"url": urls[0], "name": f"vm-{n}"} for n in range(3)]
        record = {"boot": "", "processes": [], "containers": [], "queues": queues, "vms": vms}
        leave_a_folder(folder_for_runs, a_process_that_has_ended(), json.dumps(record))
        (leftover,) = find_leftovers()

        lines = remove(leftover)

        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
    first, second, kept = lines
    assert first.startswith("3 VMs, 150 queues and exchanges are left: no broker answers at ")
    assert second.startswith("150 queues and exchanges are left: no broker answers at ")
    assert kept.startswith("kept ")


def test_many_cleanups_at_once_remove_each_run_once(
    killed_owner: tuple[Path, ProcessIdentity],
) -> None:
    folder, child = killed_owner
    program = (
        "from teardown_lab.leftovers.clean_up import find_leftovers, remove\n"
        "print([line for leftover in find_leftovers() for line in remove(leftover)])"
    )

    cleanups = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [cleanup.communicate(timeout=120)[0] for cleanup in cleanups]

    assert [cleanup.returncode for cleanup in cleanups] == [0] * 4
    assert sum(f"process {child.pid} " in output for output in outputs) == 1
    assert not is_alive(child)
    assert not folder.exists()


def test_runs_that_start_and_end_at_once_do_not_take_each_others_folder(
    folder_for_runs: Path,
) -> None:
    program = (
        "from teardown_lab.leftovers.clean_up import find_leftovers\n"
        "from teardown_lab.leftovers.run_folder import RunFolder\n"
        "for _ in range(50):\n"
        "    with RunFolder() as run:\n"
        "        assert run.path.is_dir() and find_leftovers() == []\n"
    )

    runs = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]

    assert [run.wait(timeout=120) for run in runs] == [0] * 4
    assert not folder_for_runs.exists()

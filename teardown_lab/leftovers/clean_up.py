"""Runs whose owner is gone, and what they left behind: found, and removed.

A living run holds a lock on its folder; the kernel drops it when the run is killed.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teardown_lab.leftovers.processes import ProcessIdentity, is_alive
from teardown_lab.leftovers.run_folder import remove_folder, runs_folder
from teardown_lab.leftovers.run_record import RunRecord, read_record, remove_recorded

_NAME = re.compile(r"(?P<pid>[0-9]+)-(?P<start>[0-9]+)-[0-9a-f]+")
_UNREADABLE_SECONDS_MIN = 5.0
_CLAIM_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Leftover:
    """The folder of a run whose owner is gone."""

    run_id: str
    folder: Path
    owner: ProcessIdentity


def find_leftovers() -> list[Leftover]:
    """Return the runs of this user whose owner is gone, oldest first; living runs are left out."""
    return [leftover for leftover in _run_folders() if _is_left(leftover)]


def remove(leftover: Leftover) -> list[str]:
    """Remove what a killed run left behind, and its folder.

    A process is ended only if its start time is the recorded one. A folder that another call
    removes at the same time, or whose owner turns out to live, is left alone.

    Returns:
        One line for a human for each thing that was removed, or that could not be.
    """
    with _claimed(leftover.folder, fcntl.LOCK_EX) as is_ours:
        if not is_ours or is_alive(leftover.owner):
            return []
        record = read_record(leftover.folder) or RunRecord()
        removed, left = remove_recorded(record, leftover.run_id)
        if not left:
            remove_folder(leftover.folder)
            return [*removed, f"folder {leftover.folder}"]
    return [
        *removed,
        *left,
        f"kept {leftover.folder}, to try again; delete it to forget what is named above",
    ]


def remove_at(url: str) -> list[str]:
    """Remove what killed runs of this user left behind, of those that used this broker.

    Returns:
        Their ids.
    """
    removed = []
    for leftover in find_leftovers():
        record = read_record(leftover.folder) or RunRecord()
        if url in record.urls() and remove(leftover):
            removed.append(leftover.run_id)
    return removed


def _run_folders() -> Iterator[Leftover]:
    base = runs_folder()
    try:
        if base.is_symlink() or base.lstat().st_uid != os.getuid():
            return
        folders = sorted(base.iterdir(), key=lambda folder: folder.lstat().st_mtime)
    except FileNotFoundError:
        return
    for folder in folders:
        match = _NAME.fullmatch(folder.name)
        if match:
            owner = ProcessIdentity(int(match["pid"]), int(match["start"]))
            yield Leftover(folder.name, folder, owner)


def _is_left(leftover: Leftover) -> bool:
    with _claimed(leftover.folder, fcntl.LOCK_SH) as is_ours:
        if not is_ours or is_alive(leftover.owner):
            return False
        if read_record(leftover.folder) is not None:
            return True
        # Half made: the name says who made it, unless he is in a pid namespace that hides him.
        with contextlib.suppress(FileNotFoundError):
            return time.time() - leftover.folder.stat().st_mtime > _UNREADABLE_SECONDS_MIN
    return False


@contextlib.contextmanager
def _claimed(folder: Path, lock: int) -> Iterator[bool]:
    """Lock a run's folder; False if its owner, who holds a lock while he lives, or another has it.

    The kernel drops a killed owner's lock, and it works where pids of other containers are hidden.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor, lock) and folder.exists()
    finally:
        os.close(descriptor)


def _lock(descriptor: int, lock: int) -> bool:
    deadline = time.monotonic() + _CLAIM_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
        except BlockingIOError:
            # One who only looks has it for a moment; owner and remover keep it.
            if lock == fcntl.LOCK_SH or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True

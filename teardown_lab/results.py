"""The folder of histories: where a run's goes unless told otherwise, and how much is kept.

A history is compressed while it is written. The oldest are removed when all together are more
than limits.RESULTS_BYTES_MAX; files that no run has put there are never touched.
"""

import gzip
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, cast

from vm_protocol import limits

RESULTS: Final = Path("results")
"""Below the folder in which a command runs; nothing in it is ever overwritten."""

HISTORY_NAMES: Final = ("history.jsonl.gz", "history.jsonl")
"""What a run's history is called there; the second one is what earlier versions wrote."""

YOUNG_SECONDS: Final = 600.0
"""A folder that was written to so lately may be that of a run that goes on beside this one."""

_FOLDER: Final = re.compile(r"\d{8}T\d{6}\.\d{6}-[a-z0-9-]+-vm-[0-9a-f]+")


def new_history(ordering: str, vm: str) -> Path:
    """Return a path in RESULTS that no earlier run has taken."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    return RESULTS / f"{stamp}-{ordering}-{vm}" / HISTORY_NAMES[0]


@contextmanager
def written(path: Path) -> Iterator[IO[str]]:
    """Open a history's file for writing; one whose name ends with .gz is compressed.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        # The fastest level: histories repeat themselves, so the better ones gain little.
        with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as packed:
            yield cast(IO[str], packed)
    else:
        with path.open("w", encoding="utf-8") as plain:
            yield plain


def remove_oldest(bytes_max: int = limits.RESULTS_BYTES_MAX) -> str:
    """Remove the oldest runs' folders until the others take no more than `bytes_max`.

    Returns:
        One line that says what went; empty: nothing.
    """
    kept = [(folder, _size(folder)) for folder in _folders()]
    total, removed = sum(size for _, size in kept), 0
    before = time.time() - YOUNG_SECONDS
    for folder, size in kept:
        if total <= bytes_max or _written_at(folder) > before:
            break
        shutil.rmtree(folder, ignore_errors=True)
        total -= size
        removed += 1
    if not removed:
        return ""
    runs = "run" if removed == 1 else "runs"
    return (
        f"results: removed the {removed} oldest {runs} from {RESULTS}{os.sep}, which keeps "
        f"{bytes_max / 2**20:.0f} MiB; --history FILE keeps one elsewhere"
    )


def _folders() -> list[Path]:
    """Return the folders of runs, the oldest first; what else is there is somebody's own."""
    if not RESULTS.is_dir():
        return []
    return sorted(
        folder
        for folder in RESULTS.iterdir()
        if _FOLDER.fullmatch(folder.name)
        and folder.is_dir()
        and not folder.is_symlink()
        and {each.name for each in folder.iterdir()} <= set(HISTORY_NAMES)
    )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _written_at(folder: Path) -> float:
    return max((file.stat().st_mtime for file in folder.iterdir()), default=0.0)

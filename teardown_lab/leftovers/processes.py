"""Processes named by pid and start time, so that a recycled pid is never mistaken for the old one.

Nothing here knows about brokers or runs. Where there is no /proc (macOS), `ps` answers instead,
without descendants and environments.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be confused with a later one of the same pid."""

    pid: int
    start: int


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a living process; None if it is gone or waits to be reaped."""
    start = _start_time(pid)
    return None if start is None else ProcessIdentity(pid, start)


def is_alive(process: ProcessIdentity) -> bool:
    """Tell whether this very process, and no later one of its pid, still runs."""
    return _start_time(process.pid) == process.start


def boot_id() -> str:
    """Return what tells this boot of the machine from others; empty where that is not known."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def descendants(pid: int) -> list[ProcessIdentity]:
    """Return the living processes that descend from a process, itself excluded."""
    children: dict[int, list[ProcessIdentity]] = {}
    for candidate in _pids():
        fields = _stat_fields(candidate)
        if fields is not None:
            identity = ProcessIdentity(candidate, int(fields[19]))
            children.setdefault(int(fields[1]), []).append(identity)
    found: list[ProcessIdentity] = []
    parents = [pid]
    while parents:
        below = children.pop(parents.pop(), [])
        found += below
        parents += [process.pid for process in below]
    return found


def carrying(variable: str, value: str) -> list[ProcessIdentity]:
    """Return our living processes that were started with an environment variable of this value."""
    wanted = f"{variable}={value}".encode()
    found = []
    for pid in _pids():
        identity = identify(pid)
        if identity is None or pid == os.getpid():
            continue
        # Somebody else's process cannot be read, and one that ends meanwhile cannot either.
        with contextlib.suppress(OSError):
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.append(identity)
    return found


def end(processes: Iterable[ProcessIdentity], *, grace_seconds: float) -> list[ProcessIdentity]:
    """End processes, all at once: SIGTERM, and SIGKILL for those that outlive the grace.

    Args:
        processes: Those that are gone already are skipped.
        grace_seconds: How long SIGTERM may take; with 0 there is SIGKILL only.

    Returns:
        The processes that were alive.
    """
    alive = [process for process in processes if is_alive(process)]
    steps = [(signal.SIGTERM, grace_seconds)] if grace_seconds > 0 else []
    waiting = alive
    for signum, seconds in [*steps, (signal.SIGKILL, 2.0)]:
        for process in waiting:
            _send(process, signum)
        waiting = wait_gone(waiting, seconds)
    return alive


def wait_gone(processes: Iterable[ProcessIdentity], seconds: float) -> list[ProcessIdentity]:
    """Wait until processes are gone, and return those that are still there after the time."""
    deadline = time.monotonic() + seconds
    waiting = [process for process in processes if is_alive(process)]
    while waiting and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        waiting = [process for process in waiting if is_alive(process)]
    return waiting


def _send(process: ProcessIdentity, signum: signal.Signals) -> None:
    # A pidfd stays with its process: the pid cannot be recycled between the check and the signal.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        except (AttributeError, OSError):  # no pidfds on this system
            if is_alive(process):
                os.kill(process.pid, signum)
            return
        try:
            if is_alive(process):
                signal.pidfd_send_signal(descriptor, signum)
        finally:
            os.close(descriptor)


def _pids() -> list[int]:
    try:
        return [int(entry) for entry in os.listdir(_PROC) if entry.isdigit()]
    except FileNotFoundError:
        return []


def _stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third on; None for a process that has ended."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field, the program's name, may hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields


def _start_time(pid: int) -> int | None:
    if _PROC.joinpath("self", "stat").exists():
        fields = _stat_fields(pid)
        return None if fields is None else int(fields[19])
    return _start_time_by_ps(pid)


def _start_time_by_ps(pid: int) -> int | None:
    answer = subprocess.run(
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C", "TZ": "UTC"},
    ).stdout.split(maxsplit=1)
    if len(answer) < 2 or answer[0].startswith("Z"):
        return None
    return int(time.mktime(time.strptime(answer[1].strip(), "%a %b %d %H:%M:%S %Y")))

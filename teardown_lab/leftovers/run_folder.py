"""What a run leaves behind when it is killed, and how that is removed.

Each run has a folder of its own, which says who owns it and what the run started; it is written
before or right after a thing is started, and removed when the run ends. `teardown cleanup` reads
the folders whose owners are gone. Which broker a run uses is not decided here.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from teardown_lab.leftovers.processes import ProcessIdentity, boot_id, identify
from teardown_lab.leftovers.run_record import (
    RUN_VARIABLE,
    RecordedProcess,
    RecordedQueues,
    RecordedVm,
    RunRecord,
    remove_recorded,
    write_record,
)

Output = int | IO[bytes] | None


class RunFolderError(Exception):
    """The folder of a run cannot be made or used; the text names it and the way out."""


class RunFolder:
    """The folder of one run, as a context manager: made on entry, removed on exit.

    On exit, whatever was recorded and still exists is removed too: processes are ended, containers
    removed and queues deleted. If a broker does not answer then, the folder stays for
    `teardown cleanup`.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._lock_descriptor = -1
        self._record = RunRecord()
        self._guard = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []
        self._owner_pid = -1
        self._own_brokers: set[str] = set()

    @property
    def path(self) -> Path:
        """The folder, for the run's own files; only this user can read it."""
        if self._folder is None:
            raise RunFolderError("the run's folder is not open: use `with RunFolder() as run:`")
        return self._folder

    @property
    def run_id(self) -> str:
        """The run's name, which marks its processes and containers: unique, also among TMPDIRs."""
        return self.path.name

    def open(self) -> Self:
        """Make the folder; `with` does it too.

        Raises:
            RunFolderError: The folder for all runs is somebody else's, or not writable.
        """
        if self._folder is not None:
            raise RunFolderError(f"the run's folder {self._folder} is open already")
        owner = identify(os.getpid())
        assert owner is not None, "this process runs"
        self._folder = _make_folder(owner)
        self._owner_pid = owner.pid
        self._lock_descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX)
        self._record = RunRecord(boot=boot_id())
        self._write()
        return self

    def close(self) -> None:
        """Remove what was recorded and the folder; a second call does nothing."""
        # A forked child has a copy of this object; the run is not the child's to end.
        if self._folder is None or os.getpid() != self._owner_pid:
            return
        folder, self._folder = self._folder, None
        try:
            lines_left = remove_recorded(self._record, folder.name)[1]
            if not lines_left:
                remove_folder(folder)
        finally:
            for child in self._children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=1)
            self._children.clear()
            os.close(self._lock_descriptor)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def spawn(
        self,
        argv: Sequence[str | Path],
        role: str,
        *,
        env: Mapping[str, str] | None = None,
        stdout: Output = None,
        stderr: Output = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process that dies with the run, and record it; it works in `cwd`, or where we do.

        It gets a session of its own, so that Ctrl-C reaches only us, who end children in order.

        Raises:
            OSError: The program cannot be started.
            RunFolderError: The process could not be recorded; it was ended.
        """
        # Killed between the start and the record, we still leave a mark: the run's id.
        environment = {**(os.environ if env is None else env), RUN_VARIABLE: self.run_id}
        child = subprocess.Popen(
            [str(part) for part in argv],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            self.add_process(child, role)
        except BaseException:
            child.kill()
            child.wait()
            raise
        return child

    def add_process(self, process: subprocess.Popen[bytes] | int, role: str) -> None:
        """Record a process of this run; one that has ended already is not recorded."""
        pid = process if isinstance(process, int) else process.pid
        identity = identify(pid)
        with self._guard:
            if not isinstance(process, int):
                self._children = [child for child in self._children if child.poll() is None]
                self._children.append(process)
            if identity is not None:
                recorded = RecordedProcess(identity.pid, identity.start, role)
                self._record.processes.append(recorded)
                self._write()

    def add_container(self, name_or_id: str) -> None:
        """Record a container of this run; its name may be recorded before it is made."""
        with self._guard:
            self._record.containers.append(name_or_id)
            self._write()

    def add_queues(self, url: str, names: Sequence[str], exchanges: Sequence[str] = ()) -> None:
        """Record queues (and exchanges) that the run makes on a broker that is not its own.

        Those on a broker of its own go with that broker, so they are not recorded.
        """
        with self._guard:
            if url in self._own_brokers:
                return
            self._record.queues.append(RecordedQueues(url, tuple(names), tuple(exchanges)))
            self._write()

    def add_vm(self, url: str, name: str) -> None:
        """Record a VM that the run asks for on a broker that is not its own."""
        with self._guard:
            self._record.vms.append(RecordedVm(url, name))
            self._write()

    def forget_vm(self, url: str, name: str) -> None:
        """Forget a VM that the run has had removed."""
        with self._guard:
            self._record.vms.remove(RecordedVm(url, name))
            self._write()

    def own_broker(self, url: str) -> None:
        """Tell that a broker is the run's own, and goes with it."""
        with self._guard:
            self._own_brokers.add(url)

    def forget_queues(self) -> None:
        """Forget the recorded queues: the run deleted them itself, or the user keeps them."""
        with self._guard:
            self._record.queues.clear()
            self._write()

    def _write(self) -> None:
        try:
            write_record(self.path, self._record)
        except OSError as error:
            raise RunFolderError(f"the record in {self.path} cannot be written: {error}") from error


def runs_folder() -> Path:
    """Return the folder for all runs of this user; the last run to end removes it."""
    return Path(tempfile.gettempdir()) / f"teardown-lab-{os.getuid()}"


def _make_folder(owner: ProcessIdentity) -> Path:
    base = runs_folder()
    for _ in range(100):
        folder = base / f"{owner.pid}-{owner.start}-{secrets.token_hex(8)}"
        try:
            _make_base(base)
            folder.mkdir(mode=0o700)
        except FileNotFoundError:  # another run, ending, took the empty base away
            continue
        except OSError as error:
            raise RunFolderError(
                f"cannot make the folder {folder}: {error}; set TMPDIR to a folder that is writable"
            ) from error
        return folder
    raise RunFolderError(f"{base} goes away as often as it is made: set TMPDIR to another folder")


def _make_base(base: Path) -> None:
    base.mkdir(mode=0o700, exist_ok=True)
    found = base.lstat()
    # A folder that somebody else put there could be used to read or swap what we write.
    if base.is_symlink() or found.st_uid != os.getuid():
        raise RunFolderError(
            f"{base} belongs to somebody else: remove it, or set TMPDIR to another folder"
        )
    if found.st_mode & 0o077:
        base.chmod(0o700)


def remove_folder(folder: Path) -> None:
    """Remove the folder of a run."""
    shutil.rmtree(folder, ignore_errors=True)
    # The folder for all runs goes with the last of them.
    with contextlib.suppress(OSError):
        folder.parent.rmdir()

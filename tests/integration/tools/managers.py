"""Managers and workers of a test's own: one dies, is paused or replaced, another one goes on."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integration.tools.log import Log
from integration.tools.service import service

from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, LabOptions, RunOptions, open_lab
from vm_manager.catalogue import catalogue_entry
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

GONE_S = 10.0


@dataclass
class Manager:
    """A manager's process and log."""

    process: subprocess.Popen[bytes]
    log: Log

    @property
    def elected_s(self) -> list[float]:
        """When it was elected, in seconds since 1970."""
        return self.log.times(event="manager.elected")

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(GONE_S)


@dataclass
class Crew:
    """Services on one broker, and a client in this process; all ends with the test."""

    url: str
    folder: Path
    stack: ExitStack
    managers: list[Manager] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    lab: Lab | None = None

    @property
    def crash_file(self) -> Path:
        """Where the number of the boundary goes at which the next manager is to die."""
        return self.folder / "crash"

    @property
    def worker_crash_file(self) -> Path:
        """Where it goes for the next worker that gets a command."""
        return self.folder / "crash-worker"

    def _service(self, module: str, **settings: str) -> tuple[subprocess.Popen[bytes], Log]:
        log = Log()
        file = self.crash_file if module == "vm_manager" else self.worker_crash_file
        crash = {"TEARDOWN_CRASH_FILE": str(file)}
        process = self.stack.enter_context(service(module, self.url, log, **settings, **crash))
        log.wait(event="service.ready")
        return process, log

    def manager(self) -> Manager:
        """Start one more; the first that was started and lives is the active one."""
        name = f"m-{len(self.managers) + 1}"
        self.managers.append(Manager(*self._service("vm_manager", REPLICA=name)))
        return self.managers[-1]

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        process, _ = self._service("vcpu_worker", WORKER_ID=name)
        self.workers.append(process)
        return process

    @property
    def living(self) -> list[Manager]:
        """The managers that run, in the order in which they were started."""
        return [each for each in self.managers if each.process.poll() is None]

    def tear_down(
        self,
        name: str,
        vcpus: int = 4,
        on_record: Callable[[Record], None] = lambda _: None,
        timeout_s: float = 90,
    ) -> Judgement:
        """Run one teardown from its creation to the verdict."""
        if self.lab is None:
            options = LabOptions(broker=self.url, attach=True, vcpus=vcpus)
            self.lab = self.stack.enter_context(open_lab(options, print))
        once = RunOptions(timeout_s, self.folder / "history.jsonl")
        ordering = catalogue_entry(name).ordering
        return self.lab.run(ordering, Scenario(vcpus=vcpus), 2, once, on_record).judgement

    def tear_down_apart(
        self, name: str, vcpus: int, on_record: Callable[[Record], None]
    ) -> Judgement:
        """Run one beside others, as a client of its own, on a thread of its own."""
        ordering = catalogue_entry(name).ordering
        file = self.folder / f"history-{threading.get_ident()}.jsonl"
        with open_lab(LabOptions(broker=self.url, attach=True, vcpus=vcpus), print) as lab:
            once = RunOptions(120, file)
            return lab.run(ordering, Scenario(vcpus=vcpus), 2, once, on_record).judgement

    def crash_at(self, boundary: int, name: str) -> tuple[Judgement, str, float] | None:
        """Run a teardown whose manager dies at a boundary of it; a stand-by must be there.

        Returns the judgement, the boundary's name, and how many seconds after the death the next
        manager was active; None: the teardown has fewer boundaries, and nobody died.
        """
        victim = self.living[0]
        self.crash_file.write_text(str(boundary))
        judgement = self.tear_down(name)
        died = self.crash_file.with_name("crash.at")
        if not died.exists():
            self.crash_file.unlink(missing_ok=True)
            return None
        victim.process.wait(GONE_S)
        heir = self.living[0]
        heir.log.wait(event="manager.elected")
        took_s = heir.elected_s[0] - died.stat().st_mtime
        where = died.read_text().strip()
        died.unlink()
        return judgement, where, took_s


@contextmanager
def crew(url: str, folder: Path, managers: int = 2, workers: int = 2) -> Iterator[Crew]:
    """Give managers and workers that are ready."""
    with ExitStack() as stack:
        made = Crew(url, folder, stack)
        for _ in range(managers):
            made.manager()
        for number in range(workers):
            made.worker(f"w-{number + 1}")
        yield made


class Once:
    """Does something, on a thread of its own, at the n-th record after the teardown began."""

    def __init__(self, do: Callable[[], Any], moment: int, event: str = "teardown.started") -> None:
        self._do = do
        self._moment = moment
        self._event = event
        self._seen = 0
        self.thread: threading.Thread | None = None

    def __call__(self, record: Record) -> None:
        if self._seen or record.event == self._event:
            self._seen += 1
        if self._seen >= self._moment and self.thread is None:
            self.thread = threading.Thread(target=self._do)
            self.thread.start()

    def join(self) -> None:
        assert self.thread is not None, "the run ended before its moment came"
        self.thread.join()


def essence(judgement: Judgement) -> tuple[Any, ...]:
    """Return what must not depend on who has managed the teardown."""
    violations = sorted((str(each.invariant), each.vcpu) for each in judgement.violations)
    return str(judgement.verdict), violations, judgement.counts, judgement.notes


def wait_until(is_true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for something that somebody else brings about."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)

"""The services of a run as separate processes: started, watched, stopped in order."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import urlopen

from teardown_lab.leftovers.run_folder import RunFolder
from vm_protocol import limits, topology

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 5.0
"""How long a service may take to say that it lives: a busy machine is no reason to doubt it."""
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_TAIL_LINES: Final = 15

Forward = Callable[[str], None]


class StackFailed(Exception):
    """A service did not start, or ended by itself; the text has the end of its log."""


@dataclass(eq=False)
class Service:
    """One service's process; `metrics_url` and `broker` are known once it is ready."""

    name: str
    process: subprocess.Popen[bytes]
    metrics_url: str = ""
    broker: str = ""
    ready: threading.Event = field(default_factory=threading.Event)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))

    def answers(self) -> bool:
        """Tell whether the process runs and serves its metrics."""
        return self._status("/metrics") == 200

    def has_lost_the_broker(self) -> bool:
        """Tell whether the service says itself that it is not connected."""
        return self._status("/readyz") == 503

    def _status(self, path: str) -> int | None:
        """Return the HTTP status of one of the service's paths; None if it does not answer."""
        if self.process.poll() is not None or not self.metrics_url:
            return None
        try:
            url = urljoin(self.metrics_url, path)
            with urlopen(url, timeout=ANSWER_SECONDS) as response:  # noqa: S310 - our own URL
                return int(response.status)
        except HTTPError as error:
            return error.code
        except OSError:
            return None


class Stack:
    """Managers and their workers, connected and consuming; `services` has the managers first.

    A manager that ends is no failure as long as another one stands by: that one takes over.
    """

    def __init__(
        self, services: list[Service], worker_ids: tuple[str, ...] = (), manager_count: int = 1
    ) -> None:
        self.services = services
        self.worker_ids = worker_ids
        self.manager_count = manager_count
        self._on_failure: Callable[[str], None] | None = None
        self._stopping = False
        self._guard = threading.Lock()

    @property
    def broker(self) -> str:
        """Return the broker's product and version, as it told a service."""
        return self.services[0].broker

    @property
    def metrics_urls(self) -> dict[str, str]:
        """Return where each service serves its metrics, by its name."""
        return {service.name: service.metrics_url for service in self.services}

    @property
    def managers(self) -> list[Service]:
        """Return the managers, those included that have ended."""
        return self.services[: self.manager_count]

    def answers(self) -> bool:
        """Tell whether every service answers that is not replaced by another one."""
        return all(service.answers() for service in self.services if not self._is_replaced(service))

    def _is_replaced(self, service: Service) -> bool:
        """Tell whether a service has ended and another one does its work."""
        if service not in self.managers or service.process.poll() is None:
            return False
        return any(each.process.poll() is None for each in self.managers)

    def require_connected(self) -> None:
        """Make sure that the run did not wait in vain because a service cannot reach the broker.

        Raises:
            StackFailed: A service has lost the broker, and has not got it back.
        """
        for service in self.services:
            if service.has_lost_the_broker():
                raise StackFailed(_failure(service, "has lost the broker"))

    def watch(self, on_failure: Callable[[str], None]) -> None:
        """Have `on_failure` called, on some thread, if a service ends before it is stopped."""
        with self._guard:
            self._on_failure = on_failure
        for service in self.services:
            if service.process.poll() is not None:
                self._failed(service)

    def unwatch(self) -> None:
        """Have nobody called any more."""
        with self._guard:
            self._on_failure = None

    def ended(self, service: Service) -> None:
        """Take note that a service's log has ended, and with it the service.

        A worker that ends well was told to: it has drained, and the run under way can go on.
        """
        is_drained = service.process.wait() == 0 and service.name in self.worker_ids
        if not is_drained:
            self._failed(service)

    def _failed(self, service: Service) -> None:
        with self._guard:
            is_failure = not self._stopping and not self._is_replaced(service)
            if is_failure and self._on_failure is not None:
                self._on_failure(_failure(service))

    def stop(self) -> None:
        """End the services: workers first, so that the manager sees no vanished replies."""
        with self._guard:
            self._stopping = True
        for service in reversed(self.services):
            service.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for service in self.services:
            try:
                service.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                service.process.kill()
                service.process.wait()


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to start: `name` tells this stack's workers from others on the same broker.

    On a broker that outlives the run, the stack's own queues are recorded, to be removed.
    """

    url: str
    workers: int
    vcpus: int
    name: str
    log_level: str = "warning"
    broker_outlives_run: bool = False
    gate: str = ""
    managers: int = 1

    def manager_names(self) -> tuple[str, ...]:
        """Return the managers' names."""
        others = (f"vm-manager-{number}" for number in range(2, self.managers + 1))
        return ("vm-manager", *others)

    def worker_ids(self) -> tuple[str, ...]:
        """Return the workers' ids."""
        return tuple(f"{self.name}-{number + 1}" for number in range(self.workers))

    def own_queues(self) -> tuple[str, ...]:
        """Return the names of the queues that are this stack's alone."""
        names = []
        for worker in self.worker_ids():
            names += [topology.worker_commands(worker).name, topology.worker_replies(worker).name]
        return tuple(names)


@contextmanager
def started(options: StackOptions, run: RunFolder, forward: Forward) -> Iterator[Stack]:
    """Start the services, wait until they consume, and stop them at the end.

    Args:
        options: What to start.
        run: Where the processes are recorded.
        forward: Gets log lines of `options.log_level` and above.

    Raises:
        StackFailed: A service ended or is not ready within READY_SECONDS.
    """
    if options.broker_outlives_run:
        run.add_queues(options.url, options.own_queues())
    stack = Stack([], options.worker_ids(), options.managers)
    try:
        for manager in options.manager_names():
            own = {"REPLICA": manager} if options.managers > 1 else {}
            stack.services.append(_spawn(manager, "vm_manager", own, options, run))
        capacity = str(ceil(options.vcpus / options.workers))
        for worker in options.worker_ids():
            settings = {"WORKER_ID": worker, "WORKER_CAPACITY": capacity}
            stack.services.append(_spawn(worker, "vcpu_worker", settings, options, run))
        for service in stack.services:
            _read_log(service, stack, options.log_level, forward)
        _wait_ready(stack)
        yield stack
    finally:
        stack.stop()


def _spawn(
    name: str, module: str, settings: dict[str, str], options: StackOptions, run: RunFolder
) -> Service:
    environment = {
        **os.environ,
        **settings,
        "AMQP_URL": options.url,
        "LOG_LEVEL": "debug" if options.log_level == "debug" else "info",
        "METRICS_HOST": "127.0.0.1",
        "METRICS_PORT": "0",
        "PYTHONUNBUFFERED": "1",
        "TEARDOWN_GATE": options.gate,
    }
    process = run.spawn(
        [sys.executable, "-m", module],
        name,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    return Service(name, process)


def _read_log(service: Service, stack: Stack, level: str, forward: Forward) -> None:
    """Read a service's log on a thread of its own until it ends."""

    def read() -> None:
        assert service.process.stderr is not None, "started with a pipe"
        with service.process.stderr as lines:
            for raw in lines:
                _take_line(service, raw.decode(errors="replace").rstrip("\n"), level, forward)
        service.ready.set()
        stack.ended(service)

    threading.Thread(target=read, name=f"log of {service.name}", daemon=True).start()


def _take_line(service: Service, line: str, level: str, forward: Forward) -> None:
    service.tail.append(line)
    fields: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        fields = json.loads(line)
    if fields.get("event") == "service.ready":
        service.metrics_url = f"http://127.0.0.1:{fields['metrics_port']}/metrics"
        service.broker = fields["broker"]
        service.ready.set()
    if _LEVELS.get(str(fields.get("level", "error")), 40) >= _LEVELS[level]:
        forward(line)


def _wait_ready(stack: Stack) -> None:
    deadline = time.monotonic() + READY_SECONDS
    for service in stack.services:
        service.ready.wait(max(0.0, deadline - time.monotonic()))
        if not service.metrics_url:
            raise StackFailed(_failure(service, f"is not ready after {READY_SECONDS:g} s"))


def _failure(service: Service, state: str = "") -> str:
    code = service.process.poll()
    state = f"ended with {code}" if code is not None else state
    tail = "\n  ".join(service.tail) or "(it wrote nothing)"
    return f"{service.name} {state}; the end of its log:\n  {tail}"


_STOPPING_MS = limits.DRAIN_MS + limits.SHUTDOWN_MS
assert STOP_SECONDS * 1000 > _STOPPING_MS, "a service may finish before it is killed"

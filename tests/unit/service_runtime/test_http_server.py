"""The HTTP side when many connect and say little: threads are bounded."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Counter

from service_runtime.http_server import serve_http
from vm_protocol import limits

DRIPPING = 200
CONNECTIONS_MAX = limits.HTTP_CONNECTIONS_MAX


@contextmanager
def serving() -> Iterator[int]:
    registry = CollectorRegistry()
    Counter("teardown_something", "Something", registry=registry)
    with serve_http(registry, "127.0.0.1", 0, {"/healthz": lambda: True}) as port:
        yield port


def connected(port: int, stack: ExitStack) -> socket.socket:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
    connection.sendall(b"GET /met")
    return connection


def answer(port: int, path: str) -> bytes:
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
        return bytes(response.read())


def answer_at_last(port: int, path: str) -> bytes:
    """Return an answer once there is a place: a thread gives its own up after its connection."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return answer(port, path)
        except OSError:
            assert time.monotonic() < deadline, "no place"
            time.sleep(0.05)


def is_closed(connection: socket.socket) -> bool:
    """Wait until the other side has closed a connection, without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_metrics_and_probes_are_served() -> None:
    with serving() as port:
        assert b"teardown_something_total" in answer(port, "/metrics")
        assert answer(port, "/healthz") == b"ok\n"


def test_connections_beyond_the_bound_are_closed_and_hold_no_thread() -> None:
    before = threading.active_count()
    with serving() as port, ExitStack() as stack:
        connections = [connected(port, stack) for _ in range(DRIPPING)]

        closed = [is_closed(each) for each in connections[CONNECTIONS_MAX:]]

        assert closed == [True] * (DRIPPING - CONNECTIONS_MAX)
        # A thread and its timer for each place, and the server's own.
        assert threading.active_count() - before <= 2 * CONNECTIONS_MAX + 1


def test_who_drips_is_closed_when_its_time_is_up_and_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HTTP_REQUEST_MS", 500)
    with serving() as port, ExitStack() as stack:
        connections = [connected(port, stack) for _ in range(CONNECTIONS_MAX)]
        dripping = threading.Event()

        def drip() -> None:
            while not dripping.wait(0.05):
                for each in connections:
                    try:
                        each.sendall(b"x")
                    except OSError:
                        return

        dripper = threading.Thread(target=drip)
        dripper.start()
        closed = [is_closed(each) for each in connections]
        dripping.set()
        dripper.join()

        assert closed == [True] * CONNECTIONS_MAX
        assert answer_at_last(port, "/healthz") == b"ok\n"

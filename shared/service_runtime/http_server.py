"""The service's HTTP side: `/metrics`, `/healthz`, `/readyz`; threads of its own, bounded.

Whoever reaches the port may connect and say nothing, or a byte a second. So connections are
bounded, one that finds no place is closed at once, and a request has HTTP_REQUEST_MS in all, from
its connection to its answer: a socket's own time-out begins anew with each byte.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from vm_protocol import limits

Probe = Callable[[], bool]


class _Handler(BaseHTTPRequestHandler):
    """One request; what it reads stands on the server's class made for it."""

    registry: CollectorRegistry
    probes: dict[str, Probe]
    timeout = limits.HTTP_REQUEST_MS / 1000

    def do_GET(self) -> None:
        """Answer: metrics, or 200 / 503 from a probe, or 404 with the valid paths."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.registry))
        elif path in self.probes:
            good = self.probes[path]()
            self._answer(200 if good else 503, "text/plain", b"ok\n" if good else b"no\n")
        else:
            paths = ", ".join(["/metrics", *self.probes])
            self._answer(404, "text/plain", f"valid are {paths}\n".encode())

    def _answer(self, code: int, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing: scrapes are no events."""


class _Server(ThreadingHTTPServer):
    """Serves at most HTTP_CONNECTIONS_MAX connections, each for at most HTTP_REQUEST_MS."""

    daemon_threads = True
    request_queue_size = limits.HTTP_CONNECTIONS_MAX

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self._places = threading.BoundedSemaphore(limits.HTTP_CONNECTIONS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, if there is a place."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until it ends, or its time does."""
        end = threading.Timer(limits.HTTP_REQUEST_MS / 1000, _shut, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write nothing: a peer that goes away, or is too slow, is no event."""


def _shut(request: socket.socket) -> None:
    """End a connection whose thread reads from it or writes to it."""
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


@contextmanager
def serve_http(
    registry: CollectorRegistry, host: str, port: int, probes: dict[str, Probe]
) -> Iterator[int]:
    """Serve the registry's metrics and the probes; port 0 takes a free one.

    Args:
        registry: What `/metrics` shows.
        host: Address to listen on.
        port: Port to listen on.
        probes: Path -> whether to answer 200 or 503.

    Yields:
        The port that is listened on.

    Raises:
        OSError: The port is taken.
    """
    handler = type("Handler", (_Handler,), {"registry": registry, "probes": probes})
    server = _Server((host, port), handler)
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

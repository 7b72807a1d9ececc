"""The service's HTTP side: `/metrics`, `/healthz`, `/readyz`; a thread of its own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

Probe = Callable[[], bool]


class _Handler(BaseHTTPRequestHandler):
    """One request; what it reads stands on the server's class made for it."""

    registry: CollectorRegistry
    probes: dict[str, Probe]
    timeout = 10

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
    server = ThreadingHTTPServer((host, port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

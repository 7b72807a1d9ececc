"""The service's HTTP side: `/metrics`; a thread of its own, on loopback unless told otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server


@contextmanager
def serve_http(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Serve the registry's metrics; port 0 takes a free one.

    Yields:
        The port that is listened on.

    Raises:
        OSError: The port is taken.
    """
    server, thread = start_http_server(port, addr=host, registry=registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

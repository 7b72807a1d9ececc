"""The proxy that fails on purpose, in front of a server that sends back what it gets."""

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from teardown_lab.faults.proxy import Proxy

SECONDS = 30


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(1024):
                self.request.sendall(data)
        except ConnectionResetError:
            pass  # the proxy resets both sides of what it cuts


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Proxy(f"amqp://me:secret@localhost:{server.server_address[1]}/%2F") as proxy:
            yield proxy
        server.shutdown()
        thread.join()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), SECONDS)


def echoed(client: socket.socket, data: bytes = b"hello") -> bytes:
    client.sendall(data)
    return client.recv(1024)


def test_it_forwards_to_the_host_of_a_url_that_keeps_its_login_and_path(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echoed(client) == b"hello"

    assert proxy.url == f"amqp://me:secret@127.0.0.1:{proxy.port}/%2F"


def test_a_cut_resets_what_is_open_and_lets_new_connections_in(proxy: Proxy) -> None:
    with connect(proxy) as client:
        echoed(client)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)

    with connect(proxy) as client:
        assert echoed(client) == b"hello"


def test_silence_holds_back_and_loses_nothing(proxy: Proxy) -> None:
    with connect(proxy) as client:
        echoed(client)
        proxy.fall_silent()
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            echoed(client, b"held")
        client.settimeout(SECONDS)
        proxy.speak()
        assert client.recv(1024) == b"held"


def test_one_that_refuses_accepts_and_resets(proxy: Proxy) -> None:
    with proxy.refusing():
        # The reset may arrive before the client has seen that it is connected.
        with pytest.raises(ConnectionResetError), connect(proxy) as client:
            client.recv(1)
        proxy.wait_accepted(1)

    with connect(proxy) as client:
        assert echoed(client) == b"hello"


def test_nothing_of_it_is_left_at_the_end(proxy: Proxy) -> None:
    with Proxy(proxy.url) as second, connect(second) as client:
        echoed(client)
        port = second.port

    assert [each.name for each in threading.enumerate()].count("fault-proxy") == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), SECONDS)

"""A TCP proxy in front of a broker, which cuts connections, or falls silent, when it is told to.

It knows no AMQP: to the services, and to the broker, a network fails. Lives on a thread with a loop
of its own; its methods may be called from any thread.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Final, Self
from urllib.parse import urlsplit

WAIT_S: Final = 60.0
"""How long anything that is waited for here may take, on a machine that is very busy."""

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: a socket that is closed sends a reset."""


class Proxy:
    """Forwards a port of 127.0.0.1 to a broker, from `with` to its end.

    `refuses` cuts every new connection as soon as it comes. The counts are of connections accepted
    and of cuts, since the start.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._pairs: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self._changed = threading.Condition()
        self._flowing = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.cut_count = 0
        self.accepted_count = 0
        self.refuses = False

    @property
    def url(self) -> str:
        """Return the broker's URL, by way of this proxy."""
        login, at, _ = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}").geturl()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(WAIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def cut(self) -> None:
        """Reset all connections; new ones are accepted at once."""
        self._loop.call_soon_threadsafe(self._cut)

    def fall_silent(self) -> None:
        """Forward nothing any more, of connections to come either, but keep them open."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def speak(self) -> None:
        """Forward again, what was held back included."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Cut all connections, and every new one as soon as it comes."""
        self.refuses = True
        self.cut()
        try:
            yield
        finally:
            self.refuses = False

    def wait_accepted(self, count: int) -> None:
        """Wait until so many connections have been accepted since the start.

        Raises:
            TimeoutError: There are fewer after WAIT_S.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.accepted_count >= count, WAIT_S):
                raise TimeoutError(f"{self.accepted_count} connections, {count} wanted")

    # --- on the proxy's own thread -------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _listen(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None, "made by _listen"
        self._server.close()
        tasks = tuple(self._pairs)
        self._cut()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):  # transports close their sockets in callbacks
            await asyncio.sleep(0)

    def _cut(self) -> None:
        self.cut_count += 1
        for task, writers in tuple(self._pairs.items()):
            for writer in writers:
                _reset(writer)
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._forward(reader, writer))
        # A task that is cancelled before it has begun runs no `finally`.
        self._pairs[task] = (writer,)
        task.add_done_callback(self._ended)
        with self._changed:
            self.accepted_count += 1
            self._changed.notify_all()

    def _ended(self, task: asyncio.Task[None]) -> None:
        for writer in self._pairs.pop(task):
            _reset(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "made by _accept"
        if self.refuses:
            return
        host, port = self._parts.hostname, self._parts.port or _PORTS[self._parts.scheme]
        with contextlib.suppress(OSError, asyncio.CancelledError):
            beyond, away = await asyncio.open_connection(host, port)
            self._pairs[task] = (writer, away)
            await asyncio.gather(self._pump(reader, away), self._pump(beyond, writer))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._flowing.wait()
            target.write(data)
            await target.drain()
        raise ConnectionResetError("one side has closed")


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once and with a reset, as a cable that is pulled does not ask either."""
    found = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if found is not None and found.fileno() >= 0:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()

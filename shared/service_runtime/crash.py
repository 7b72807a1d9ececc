"""Kills its own process at a boundary of a teardown: for tests of recovery, and nothing else.

Used only when TEARDOWN_CRASH_FILE names a file. When a service gets a DestroyVm or DestroyVcpu and
that file exists, it takes the number n out of it and deletes it, so that one process alone takes
it. At the n-th boundary from there on it writes `n NAME-OF-BOUNDARY` to FILE.at and gets SIGKILL.
"""

import os
import signal
from pathlib import Path

from service_runtime.passage import Enqueue, Passage, Take
from vm_protocol.codec import Packet

_ARMS = ("DestroyVm", "DestroyVcpu")


class CrashAt(Passage):
    """Lets everything pass until the boundary comes."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._number = 0
        self._left = 0

    def arrived(self, queue: str, packet: Packet, take: Take, enqueue: Enqueue) -> None:
        """Take a delivery; a teardown's first one may arm this."""
        if not self._left and packet.properties.get("type") in _ARMS and self._file.exists():
            self._number = self._left = int(self._file.read_text(encoding="utf-8"))
            self._file.unlink()
        super().arrived(queue, packet, take, enqueue)

    def reached(self, boundary: str) -> None:
        """Die here if it is the one."""
        if not self._left:
            return
        self._left -= 1
        if not self._left:
            at = self._file.with_name(f"{self._file.name}.at")
            at.write_text(f"{self._number} {boundary}\n", encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)

"""CPU time of processes, as Linux counts it in /proc (proc(5)); nothing elsewhere."""

import os
from collections.abc import Mapping
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process; 0 where /proc does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class CpuMeter:
    """Adds up what named processes used between `begin` and `end`, over any number of pairs."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._begun: dict[str, float] = {}
        self.seconds = dict.fromkeys(pids, 0.0)

    def begin(self) -> None:
        """Note where each process stands."""
        self._begun = {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def end(self) -> None:
        """Add what each process used since."""
        for name, pid in self._pids.items():
            self.seconds[name] += cpu_seconds(pid) - self._begun[name]

"""Log lines of services, waited for instead of slept for."""

import json
import threading
from datetime import datetime
from typing import Any

WAIT_S = 60.0


class Log:
    """Collects JSON lines from any thread; `wait` blocks until enough of a kind have come."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._come = threading.Condition()

    def __call__(self, line: str) -> None:
        try:
            fields = json.loads(line)
        except ValueError:
            fields = {"event": "(no JSON)", "line": line}
        with self._come:
            self.lines.append(fields)
            self._come.notify_all()

    def count(self, **wanted: Any) -> int:
        """Return how many lines have these fields."""
        return sum(wanted.items() <= line.items() for line in tuple(self.lines))

    def times(self, **wanted: Any) -> list[float]:
        """Return when the lines with these fields were written, in seconds since 1970."""
        lines = (line for line in tuple(self.lines) if wanted.items() <= line.items())
        return [datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines]

    def wait(self, count: int = 1, **wanted: Any) -> None:
        """Wait until so many lines with these fields have come, since the beginning."""
        with self._come:
            enough = self._come.wait_for(lambda: self.count(**wanted) >= count, WAIT_S)
        assert enough, f"{self.count(**wanted)} of {count} lines with {wanted}: {self.lines[-5:]}"

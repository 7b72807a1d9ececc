"""What a file is that was given as a history and is none, told from its beginning."""

import json
from pathlib import Path
from typing import Any, Final

_LOOKED_AT: Final = 65_536
_MAGIC: Final = (
    (b"\x17\x08\x44tracing", "a recording of trace-cmd, and only histories are read here"),
    (b"# tracer:", "a recording of ftrace, and only histories are read here"),
    (b"\x7fELF", "a program"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89PNG", "a picture"),
    (b"<?xml", "an XML file, such as `teardown run --junit` writes"),
    (b"td1.", "the token of a schedule: `teardown replay` takes it"),
)


def kind_of(path: Path) -> str:
    """Return what a file is, and what to do with it; empty: nothing that is known here.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT)
    if not start:
        return "an empty file"
    for magic, text in _MAGIC:
        if start.startswith(magic):
            return text
    if b"\0" in start and not start.startswith(b"\x1f\x8b"):
        return "no text"
    if start.lstrip().startswith(b"{"):
        return _of_json(path)
    lines = start.decode("utf-8", errors="replace").splitlines()
    if any(line.startswith("steps:") for line in lines):
        return f"an ordering: `teardown run {path}` runs it"
    if any(line.startswith(("vcpus:", "mmu:", "roots:")) for line in lines):
        return f"a scenario: `teardown run ORDERING --scenario {path}` takes it"
    return ""


def _of_json(path: Path) -> str:
    """Return what a file is that holds one JSON object over all its lines."""
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return ""
    if not isinstance(data, dict):
        return ""
    if {"ordering", "path", "token"} <= set(data):
        return f"a schedule of `teardown explore --save`: `teardown replay {path}` takes it"
    if {"verdict", "counts"} <= set(data):
        history = data.get("history")
        return "what `teardown run --json` has printed" + (
            f"; its history is {history}" if isinstance(history, str) and history else ""
        )
    if {"verdict", "states"} <= set(data):
        return "what `teardown explore --json` has printed, which has no history"
    return ""

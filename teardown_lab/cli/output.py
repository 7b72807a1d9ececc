"""What commands print: one JSON object, or lines; and progress where a terminal can show it."""

import json
import math
import os
import shutil
import sys
from typing import Any

import click


def print_json(data: Any) -> None:
    """Print one object that every JSON reader takes: what is no number of JSON becomes null."""
    click.echo(json.dumps(_finite(data), allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def width() -> int | None:
    """Return how many columns stdout's terminal has, or COLUMNS says; None: nobody counts them."""
    return shutil.get_terminal_size(fallback=(0, 0)).columns or None


def is_rich(stream: Any = None) -> bool:
    """Tell whether escapes may be written: to a terminal, and not one that knows none."""
    stream = sys.stderr if stream is None else stream
    return bool(stream is not None and stream.isatty()) and os.environ.get("TERM") != "dumb"


def show_progress(text: str) -> None:
    """Show a line on stderr that the next one replaces; nothing where that cannot be shown."""
    if is_rich():
        columns = shutil.get_terminal_size().columns
        click.echo(f"\r{text[: columns - 1]}\x1b[K", err=True, nl=False)


def clear_progress() -> None:
    """Take the line of `show_progress` away."""
    if is_rich():
        click.echo("\r\x1b[K", err=True, nl=False)

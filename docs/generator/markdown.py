"""Small pieces of Markdown, and the notice at the head of every generated page."""

import ast
import inspect
from collections.abc import Iterable, Sequence
from enum import EnumType

NOTICE = "<!-- Written by `make docs` from {sources}; edit those, not this page. -->"


def heading(title: str, sources: str) -> list[str]:
    """Return the first lines of a page."""
    return [f"# {title}", "", NOTICE.format(sources=sources), ""]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table's lines, and an empty one after it."""
    lines = [_row(columns), _row(["---"] * len(columns))]
    return [*lines, *(_row(row) for row in rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def code(words: Iterable[str]) -> str:
    """Return words as code, with commas between."""
    return ", ".join(f"`{word}`" for word in words)


def sentence(text: str) -> str:
    """Return a text on one line, as a sentence."""
    line = " ".join(text.split())
    return line if line.endswith(".") else f"{line}."


def said_of_members(members: EnumType) -> dict[str, str]:
    """Return the text that stands below each member of an enumeration, by the member's name."""
    (parsed,) = ast.parse(inspect.getsource(members)).body
    assert isinstance(parsed, ast.ClassDef), "the source of a class"
    said: dict[str, str] = {}
    for member, below in zip(parsed.body, parsed.body[1:], strict=False):
        if isinstance(member, ast.Assign) and isinstance(below, ast.Expr):
            (target,) = member.targets
            assert isinstance(target, ast.Name), "a member is a name"
            said[target.id] = ast.literal_eval(below.value)
    return said

"""Two orderings side by side: which lines move, come or go, and the commit that did it; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from vm_manager.catalogue import Change, Entry
from vm_protocol.ordering import LOOP, ForEachVcpu, Loop, Ordering

_INDENT = "  "
SETTINGS = ("flush_wait", "fence", "array")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an ordering as it is shown; `step` is the word that it stands for."""

    text: str
    step: str


@dataclass(frozen=True, slots=True)
class _Block:
    """A setting, a VM step, or a loop with its steps; blocks of one key are compared inside."""

    key: str
    lines: tuple[Line, ...]


Marked = tuple[str, Line]
"""("-", "+" or " ", the line)."""


def _blocks(ordering: Ordering) -> list[_Block]:
    """Return an ordering's settings that are not the defaults, and its steps, as blocks."""
    blocks: list[_Block] = []
    for name in SETTINGS:
        value = getattr(ordering, name)
        if value != Ordering.model_fields[name].default:
            line = Line(f"{name}: {str(value).lower()}", name)
            blocks.append(_Block(line.text, (line,)))
    for step in ordering.steps:
        if isinstance(step, ForEachVcpu):
            blocks.append(_loop_block(step.for_each_vcpu))
        else:
            blocks.append(_Block(step, (Line(step, step),)))
    return blocks


def _loop_block(loop: Loop) -> _Block:
    """Return a loop's block; its key is what the pass is for: to free, else its last step."""
    purpose = "free_vcpu" if "free_vcpu" in loop.steps else loop.steps[-1]
    inner = tuple(Line(f"{_INDENT}{step}", step) for step in loop.steps)
    header = Line(f"{LOOP}:{_loop_options(loop)}", LOOP)
    return _Block(f"{LOOP} {purpose}", (header, *inner))


def _loop_options(loop: Loop) -> str:
    options: list[str] = [] if loop.order == "ascending" else [loop.order]
    if loop.parallel != 1:
        options.append("all at once" if loop.parallel == "all" else f"{loop.parallel} at once")
    return f" ({', '.join(options)})" if options else ""


def _compare_lines(old: Sequence[Line], new: Sequence[Line]) -> list[Marked]:
    marked: list[Marked] = []
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for kind, first, last, new_first, new_last in matcher.get_opcodes():
        if kind == "equal":
            marked += [(" ", line) for line in old[first:last]]
            continue
        marked += [("-", line) for line in old[first:last]]
        marked += [("+", line) for line in new[new_first:new_last]]
    return marked


def _compare(old: Sequence[_Block], new: Sequence[_Block]) -> list[Marked]:
    """Compare block by block, and inside of blocks that are for the same."""
    marked: list[Marked] = []
    keys, new_keys = [block.key for block in old], [block.key for block in new]
    matcher = SequenceMatcher(None, keys, new_keys, autojunk=False)
    for kind, first, last, new_first, new_last in matcher.get_opcodes():
        if kind == "equal":
            pairs = zip(old[first:last], new[new_first:new_last], strict=True)
            for before, after in pairs:
                marked += _compare_lines(before.lines, after.lines)
            continue
        marked += [("-", line) for block in old[first:last] for line in block.lines]
        marked += [("+", line) for block in new[new_first:new_last] for line in block.lines]
    return marked


def diff(old: Entry, new: Entry, catalogue: Mapping[str, Entry]) -> list[str]:
    """Return the lines of the diff; each difference with its commit where the catalogue knows it.

    Args:
        old: Marked with `-`.
        new: Marked with `+`.
        catalogue: All entries by name; the changes between the two are collected along `after`.
    """
    marked = _compare(_blocks(old.ordering), _blocks(new.ordering))
    changes = _changes_between(old, new, catalogue)
    removed = {line.step for mark, line in marked if mark == "-"}
    added = {line.step for mark, line in marked if mark == "+"}
    width = max(len(line.text) for _, line in marked) + 3
    shown = [f"--- {_title(old)}", f"+++ {_title(new)}"]
    for mark, line in marked:
        label = _label(mark, line, removed & added, changes) if mark != " " else ""
        shown.append(f"{mark} {line.text:{width}}{label}".rstrip())
    if not removed | added:
        shown.append("the steps are the same")
    return shown


def _title(entry: Entry) -> str:
    kernel = entry.ordering.kernel
    return f"{entry.ordering.name}  ({kernel.versions})" if kernel else entry.ordering.name


def _label(mark: str, line: Line, both: set[str], changes: Mapping[str, Change]) -> str:
    is_moved = line.step in both and line.step != LOOP
    kind = "moved" if is_moved else ("gone" if mark == "-" else "new")
    plain_loop = line.step == LOOP and line.text.endswith(":")
    change = None if plain_loop else changes.get(line.step)
    if change is None:
        return kind
    commit = f"{change.commit}  " if change.commit else ""
    return f"{kind:6} {commit}{change.what}"


def _changes_between(old: Entry, new: Entry, catalogue: Mapping[str, Entry]) -> dict[str, Change]:
    """Return the newest change of each step on the way from one entry to the other."""
    for start, end in ((old, new), (new, old)):
        path: list[Entry] = []
        entry: Entry | None = end
        while entry is not None and entry.ordering.name != start.ordering.name:
            path.append(entry)
            entry = catalogue.get(entry.after) if entry.after else None
        if entry is not None:
            found: dict[str, Change] = {}
            for passed in reversed(path):
                for change in passed.changes:
                    found |= dict.fromkeys(change.steps, change)
            return found
    return {}

"""What several commands take: an ordering by name or file, a scenario by file and flags."""

import re
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

import click
from pydantic import ValidationError

from vm_manager.catalogue import (
    Entry,
    OrderingError,
    catalogue_entry,
    catalogue_names,
    read_ordering,
    read_scenario,
)
from vm_manager.kernel_words import step_meant
from vm_manager.yaml_text import load
from vm_protocol import limits
from vm_protocol.scenario import Scenario
from vm_protocol.work import too_much

_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def find_ordering(name: str) -> Entry:
    """Return a shipped ordering by its name, or a user's by the path of its file.

    Raises:
        OrderingError: The file is wrong; names line and column.
        click.BadParameter: There is neither a name nor a file like that.
    """
    if name in catalogue_names():
        return catalogue_entry(name)
    path = Path(name)
    if path.is_file():
        return read_ordering(_read(path), name)
    if path.suffix in (".yaml", ".yml") or "/" in name:
        raise click.BadParameter(f"there is no file {name}{_file_meant(path)}")
    known = ", ".join(catalogue_names())
    raise click.BadParameter(
        f"there is no ordering {name!r}{_meant(name)}; shipped are {known}, or give a FILE"
    )


def _file_meant(path: Path) -> str:
    """Return the shipped ordering, or the file beside, that a path may stand for."""
    if path.stem in catalogue_names():
        return f"; the shipped ordering is called {path.stem}, without a path"
    try:
        beside = [each.name for each in path.parent.iterdir() if each.suffix == path.suffix]
    except OSError:
        return ""
    close = get_close_matches(path.name, beside, n=1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""


def _meant(name: str) -> str:
    """Return what a name that is no ordering's may stand for, as the end of a clause."""
    step = step_meant(name)
    if step is not None:
        return f" (it is KVM's function for the step `{step}`, which stands in orderings)"
    if _COMMIT.fullmatch(name):
        return _meant_by_commit(name)
    close = get_close_matches(name, catalogue_names(), n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _meant_by_commit(commit: str) -> str:
    """Return the orderings that a commit of the kernel's, or the beginning of one, has made."""
    made = []
    for name in catalogue_names():
        entry = catalogue_entry(name)
        commits = [change.commit for change in entry.changes]
        commits += [entry.ordering.kernel.commit] if entry.ordering.kernel else []
        if any(each and (each.startswith(commit) or commit.startswith(each)) for each in commits):
            made.append(name)
    if made:
        return f" (that commit belongs to {', '.join(made)})"
    return " (of that commit none is known)"


@dataclass(frozen=True, slots=True)
class Shape:
    """What flags say of a scenario; what is None is left to its file, or to the default."""

    vcpus: int | None
    mmu: str | None
    roots: str | None
    seed: int | None = None


def make_scenario(file: str | None, shape: Shape) -> Scenario:
    """Return the scenario of a file, with the flags that were given put over it.

    Raises:
        OrderingError: The file is wrong; names line and column.
        click.BadParameter: A flag's value is wrong.
    """
    base = read_scenario(_read(Path(file)), file) if file else Scenario()
    given = {name: value for name, value in asdict(shape).items() if value is not None}
    try:
        return Scenario.model_validate({**base.model_dump(), **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise click.BadParameter(f"{name}: {first['msg']}".removeprefix(": ")) from None


def check_work(entry: Entry, source: str, scenario: Scenario) -> None:
    """Refuse before anything is started what the manager would refuse.

    Raises:
        OrderingError: The ordering costs a VM of this shape too much; names the worst step's place.
    """
    if excess := too_much(entry.ordering, scenario):
        raise load(entry.text, source).error(("steps", excess.worst.index), str(excess))


def _read(path: Path) -> str:
    """Return a file's text; of one that is far too long, no more than it takes to refuse it.

    Raises:
        OrderingError: The file cannot be read, or is no text.
    """
    bytes_max = 4 * limits.ORDERING_FILE_CHARACTERS_MAX + 4
    try:
        with path.open("rb") as file:
            return file.read(bytes_max).decode("utf-8")
    except UnicodeDecodeError as error:
        raise OrderingError(str(path), (1, 1), f"not UTF-8 text: {error.reason}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise OrderingError(str(path), (1, 1), f"cannot be read: {reason}") from None

"""A history: the records of a file, or of a simulator's run; reading it, and its VMs.

Putting the records in order is done in happens_before.py, and finding what is missing in
completeness.py. Only one gap is found here, as only the file shows it: a last line that is cut off.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from teardown_lab.checker import shapes
from teardown_lab.checker.history_file import DamagedFile, Lines
from vm_protocol import limits
from vm_protocol.observations import Event
from vm_protocol.wire import Record

_OF_A_VM: Final = frozenset(
    {
        Event.VM_CREATED,
        Event.VM_FREED,
        Event.VCPU_VISIBLE,
        Event.VCPU_CREATED,
        Event.VCPU_FREED,
        Event.TEARDOWN_STARTED,
    }
)
"""Events that only a VM's own life brings forth; a stray message may name any VM."""


class HistoryError(Exception):
    """The file is no history that can be judged; the text begins with its place."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A record that lacks what its event needs: it counts as missing, and a note says so."""

    record: Record
    place: str
    lacks: str


@dataclass(frozen=True, slots=True)
class History:
    """Records in the order of the file; `cut_off` tells that the last line was not whole.

    `unusable` are records without what their event needs, which stand in no judgement.
    """

    records: tuple[Record, ...]
    cut_off: bool = False
    path: str = "-"
    unusable: tuple[Unusable, ...] = ()

    @classmethod
    def of(cls, records: Iterable[Record]) -> "History":
        """Return the history of records that are at hand.

        Raises:
            HistoryError: There is no record.
        """
        found: list[Record] = []
        unusable: list[Unusable] = []
        for number, record in enumerate(records, start=1):
            _sort_out(record, f"record {number}", found, unusable)
        if not found:
            raise HistoryError("the history is empty")
        return cls(tuple(found), unusable=tuple(unusable))

    def vms(self) -> tuple[str, ...]:
        """Return the names of the VMs that lived in this history, sorted."""
        lived = {record.vm for record in self.records if record.event in _OF_A_VM}
        named = {record.vm for record in self.records}
        return tuple(sorted(name for name in lived or named if name is not None))

    def the_vm(self, vm: str | None = None) -> str:
        """Return the VM to judge: the one asked for, or the only one.

        Raises:
            HistoryError: It is not in the history, or there are several to choose from.
        """
        names = self.vms()
        if not names:
            raise HistoryError(f"{self.path}: no record belongs to a VM")
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        if vm is not None and vm not in names:
            raise HistoryError(f"{self.path}: there is no VM {vm!r} (it holds: {shown})")
        if vm is None and len(names) > 1:
            raise HistoryError(
                f"{self.path}: {len(names)} VMs ({shown}); name the one to judge with --vm"
            )
        return names[0] if vm is None else vm


def load_history(path: str | Path) -> History:
    """Return the history in a file of JSON Lines, plain or compressed by gzip.

    A last line without its newline that is no JSON was cut off by a crash: it is left out and
    remembered.

    Raises:
        HistoryError: With file and line, for everything else that is no record.
        OSError: The file cannot be read.
    """
    lines = Lines(path)
    named: dict[frozenset[str], set[str]] = {}
    records: list[Record] = []
    unusable: list[Unusable] = []
    unfinished = b""
    try:
        for number, line in enumerate(lines, start=1):
            if lines.cut_off and not _is_json(line):
                unfinished = line
            elif line.strip():
                record = _parse(line, f"{path}:{number}")
                _share_names(record, named)
                _sort_out(record, f"line {number}", records, unusable)
    except DamagedFile as error:
        raise HistoryError(f"{path}: {error}") from None
    cut_off = lines.is_short or bool(unfinished.strip())
    if not records:
        raise HistoryError(f"{path}:1: the history is empty")
    return History(tuple(records), cut_off, str(path), tuple(unusable))


def _sort_out(record: Record, place: str, found: list[Record], unusable: list[Unusable]) -> None:
    lacks = shapes.problem(record)
    if lacks is None:
        found.append(record)
    else:
        unusable.append(Unusable(record, place, lacks))


def _share_names(record: Record, named: dict[frozenset[str], set[str]]) -> None:
    """Let records that give the same fields share the set of their names: it is half of each.

    Nobody changes such a set: a record is frozen, and a copy of it gets a set of its own.
    """
    names = record.model_fields_set
    common = named.setdefault(frozenset(names), names)
    object.__setattr__(record, "__pydantic_fields_set__", common)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(line: bytes, place: str) -> Record:
    try:
        record = Record.model_validate_json(line)
    except ValidationError as error:
        raise HistoryError(f"{place}: {_diagnosis(line, error)}") from None
    if record.schema_version != limits.SCHEMA_VERSION:
        raise HistoryError(f"{place}: {_other_schema(record.schema_version)}")
    return record


def _diagnosis(line: bytes, error: ValidationError) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        return "not JSON"
    except RecursionError:
        return "not a record: lists or objects stand too deep inside each other"
    if not isinstance(value, dict):
        return "not a JSON object"
    schema = value.get("schema", limits.SCHEMA_VERSION)
    if schema != limits.SCHEMA_VERSION:
        return _other_schema(schema)
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"not a record: {where}: {first['msg']}"


def _other_schema(schema: object) -> str:
    return f"schema {schema!r}; this program reads schema {limits.SCHEMA_VERSION}"

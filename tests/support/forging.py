"""Forged histories: one record of a real run removed, emptied, retyped, contradicted, renumbered.

A faulty or lying service, or a journal that lost something, would write such a history. Instances
are generated from the records of a run; what the verdict must be stands in the tests, by hand.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from teardown_lab.checker.history import History, HistoryError
from teardown_lab.checker.judgement import Judgement
from teardown_lab.checker.verdict import judge
from vm_protocol.wire import Record

Fields = dict[str, Any]
REFUSED: Final = "refused"
"""What stands for a verdict when the file is no history: an error that names the line."""

ORDER_FIELDS: Final = frozenset({"seq"})
MISSING: Final = object()


@dataclass(frozen=True)
class Kind:
    """What is forged: of which event (with the message's type), which field, and how."""

    event: str
    field: str
    how: str

    def __str__(self) -> str:
        return f"{self.event}: {self.field or 'the record'} {self.how}"


@dataclass(frozen=True)
class Forgery:
    """One instance: the place of the record, and the records as they were forged."""

    kind: Kind
    place: int
    make: Callable[[], History]

    def verdict(self) -> str:
        """Return the verdict on the forged history, REFUSED when it is none."""
        judgement = self.judgement()
        return REFUSED if judgement is None else str(judgement.verdict)

    def judgement(self) -> Judgement | None:
        """Return the judgement of the forged history, None when it is none."""
        try:
            return judge(self.make())
        except HistoryError:
            return None


def forgeries(records: Sequence[Record]) -> list[Forgery]:
    """Return every forgery of one record of a history."""
    values = _values_by_field(records)
    found: list[Forgery] = []
    for place, record in enumerate(records):
        found += _of_records(records, place)
        for field, how, fields in _of_fields(record, values):
            kind = Kind(_name(record), field, how)
            found.append(Forgery(kind, place, _with(records, place, fields)))
    return found


def spread(found: Sequence[Forgery], of_each: int, chance: random.Random) -> list[Forgery]:
    """Return up to so many forgeries of each kind, drawn by chance."""
    by_kind: dict[Kind, list[Forgery]] = defaultdict(list)
    for forgery in found:
        by_kind[forgery.kind].append(forgery)
    return [
        each
        for kind in sorted(by_kind, key=str)
        for each in chance.sample(by_kind[kind], min(of_each, len(by_kind[kind])))
    ]


def renumbered(records: Sequence[Record]) -> list[Record]:
    """Return the records with each actor's numbers anew, so that no gap tells of a change."""
    numbers: dict[str, int] = defaultdict(int)
    found = []
    for record in records:
        found.append(record.model_copy(update={"seq": numbers[record.actor]}))
        numbers[record.actor] += 1
    return found


def _name(record: Record) -> str:
    kind = record.details.get("type")
    return f"{record.event} {kind}" if record.event == "message.sent" else str(record.event)


# --- whole records -----------------------------------------------------------------------------


def _of_records(records: Sequence[Record], place: int) -> Iterator[Forgery]:
    record = records[place]
    without = [*records[:place], *records[place + 1 :]]

    def forged(how: str, made: Callable[[], Sequence[Record]]) -> Forgery:
        return Forgery(Kind(_name(record), "", how), place, lambda: History.of(made()))

    yield forged("removed", lambda: without)
    yield forged("removed, renumbered", lambda: renumbered(without))
    yield forged("repeated", lambda: [*records, record])
    twice = [*records[: place + 1], *records[place:]]
    yield forged("doubled, renumbered", lambda: renumbered(twice))
    own = [n for n, each in enumerate(records) if each.actor == record.actor]
    nth = own.index(place)
    for how, other in (
        ("moved earlier", own[max(0, nth - 1)]),
        ("moved later", own[min(len(own) - 1, nth + 1)]),
        ("moved to the beginning", own[0]),
        ("moved to the end", own[-1]),
    ):
        if other != place:
            yield forged(how, lambda other=other: renumbered(_moved(records, place, other)))  # type: ignore[misc]
    for how, seq in (("number raised", record.seq + 1), ("number far off", record.seq + 10_000)):
        changed = record.model_copy(update={"seq": seq})
        yield forged(how, lambda changed=changed: _put(records, place, changed))  # type: ignore[misc]


def _moved(records: Sequence[Record], place: int, to: int) -> list[Record]:
    moved = [*records[:place], *records[place + 1 :]]
    moved.insert(to, records[place])
    return moved


def _put(records: Sequence[Record], place: int, record: Record) -> list[Record]:
    return [*records[:place], record, *records[place + 1 :]]


# --- fields ------------------------------------------------------------------------------------


def _with(records: Sequence[Record], place: int, fields: Fields) -> Callable[[], History]:
    def make() -> History:
        try:
            record = Record.model_validate_json(json.dumps(fields))
        except ValidationError as error:
            raise HistoryError(str(error)) from None
        return History.of(_put(records, place, record))

    return make


def _of_fields(
    record: Record, values: dict[tuple[str, str], list[Any]]
) -> Iterator[tuple[str, str, Fields]]:
    line = json.loads(record.to_line())
    for path in _paths(line):
        name = ".".join(path)
        for how, value in _changes(_get(line, path), values[_name(record), name]):
            yield name, how, _set(line, path, value)


def _paths(fields: Fields, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all fields, those of objects included; not of scenarios and orderings."""
    for name, value in fields.items():
        path = (*prefix, name)
        if path[-1] in ("seq", "schema", "traceparent", "at_ns"):
            continue
        yield path
        if isinstance(value, dict):
            yield from _paths(value, path)


def _changes(value: Any, others: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    yield "removed", MISSING
    yield "nulled", None
    yield from _emptied(value)
    yield "retyped", {"a": [1]} if not isinstance(value, dict) else "all"
    if isinstance(value, bool):
        yield "contradicted", not value
    elif isinstance(value, int):
        yield "contradicted", value + 1
        yield "lowered", value - 1
        yield "huge", 10**30
        yield "retyped to text", str(value)
    elif isinstance(value, list):
        if value:
            yield "shortened", value[:-1]
            yield "its items retyped", [[each] for each in value]
        yield "lengthened", [*value, *value[-1:]] if value else [0]
    other = next((each for each in others if each != value), None)
    if other is not None:
        yield "another's", other
    elif isinstance(value, str):
        yield "another's", f"{value}x"


def _emptied(value: Any) -> Iterator[tuple[str, Any]]:
    for empty in ("", [], {}, 0):
        if type(empty) is type(value) and empty != value:
            yield "emptied", empty


def _values_by_field(records: Sequence[Record]) -> dict[tuple[str, str], list[Any]]:
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for record in records:
        line = json.loads(record.to_line())
        for path in _paths(line):
            value = _get(line, path)
            values = found[_name(record), ".".join(path)]
            if value not in values:
                values.append(value)
    return found


def _get(fields: Fields, path: tuple[str, ...]) -> Any:
    for name in path:
        fields = fields[name]
    return fields


def _set(fields: Fields, path: tuple[str, ...], value: Any) -> Fields:
    name, *rest = path
    changed = dict(fields)
    if rest:
        changed[name] = _set(fields[name], tuple(rest), value)
    elif value is MISSING:
        del changed[name]
    else:
        changed[name] = value
    return changed

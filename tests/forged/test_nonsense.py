"""Whatever stands in a history ends as a verdict or as a clear message, never as a traceback."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forged.runs import records_of
from support.randomness import seeded

from teardown_lab.checker import HistoryError, judge, load_history

JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**18,
    10**400,
    1.5,
    float("nan"),
    "",
    "x" * 5_000,
    "\ud800",
    "vm-0.1/request/x",
    "vcpu.vm-0.99999999999999999999.1",
    [],
    [[1]],
    [{}],
    [1, "a", None],
    {},
    {"a": {"b": [1]}},
)
FILES = 40


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield (*path, name)
            yield from places(item, (*path, name))


def spoil(fields: dict[str, Any], chance: random.Random) -> None:
    """Put nonsense in one place of a record."""
    *path, last = chance.choice(list(places(fields)))
    for name in path:
        fields = fields[name]
    fields[last] = chance.choice(JUNK)


def test_nonsense_in_any_place_is_judged_or_named(tmp_path: Path) -> None:
    chance = seeded("nonsense")
    lines = [record.to_line() for record in records_of("in guest, one root")]
    path = tmp_path / "h.jsonl"
    ends, refused = set(), []
    for _ in range(FILES):
        spoiled = list(lines)
        for place in chance.sample(range(len(lines)), 1):
            fields = json.loads(lines[place])
            spoil(fields, chance)
            spoiled[place] = json.dumps(fields)
        path.write_text("\n".join(spoiled) + "\n")
        try:
            judgement = judge(load_history(path))
            json.dumps(judgement.to_json(str(path)))
            ends.add(str(judgement.verdict))
        except HistoryError as error:
            refused.append(str(error))

    assert refused
    assert all(text.startswith(str(path)) for text in refused)
    assert "inconclusive" in ends


@pytest.mark.parametrize("vcpus", ["four", None, 0, 10**12, [4]])
def test_a_scenario_that_is_none_is_said(tmp_path: Path, vcpus: object) -> None:
    first, *rest = [record.to_line() for record in records_of("the patch")]
    fields = json.loads(first)
    fields["details"]["scenario"]["vcpus"] = vcpus
    path = tmp_path / "h.jsonl"
    path.write_text("\n".join([json.dumps(fields), *rest]) + "\n")

    judgement = judge(load_history(path))

    assert judgement.verdict == "inconclusive"
    assert any("scenario" in note for note in judgement.notes)

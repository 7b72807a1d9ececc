"""What keeps a take-over harmless is taken away in turn, and the explorer finds what breaks."""

import pytest
from support.exploring import answer, explored
from support.mutants import Mutant, mutate
from support.safeguards import TABLE
from support.take_over_safeguards import ASSUMED, CRASH, REPEATED, TAKE_OVER_TABLE, Row

from teardown_lab.explorer.strategy import Bounds, Explored

pytestmark = [pytest.mark.spread, pytest.mark.slow]

FIRST = Bounds(reduce=False, first_only=True)
ROWS = {**TAKE_OVER_TABLE, **ASSUMED}


def steps_to(found: Explored, shown_as: str) -> int:
    ways = {**found.paths, **found.doubts}
    return min((len(way) for key, way in ways.items() if key[0] == shown_as), default=0)


@pytest.mark.parametrize("safeguard", ROWS)
def test_a_safeguard_of_take_overs_is_missed(
    safeguard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROWS[safeguard]
    for mutant in row.mutants:
        mutate(monkeypatch, mutant)

    found = answer(row.begin(), FIRST)

    print(f"{safeguard}: {row.shown_as} in {steps_to(found.explored, row.shown_as)} steps")
    assert steps_to(found.explored, row.shown_as) == row.steps
    assert found.verdict.disagreements
    assert all(row.unconfirmed in each for each in found.verdict.disagreements)


@pytest.mark.parametrize("safeguard", ROWS)
def test_with_all_safeguards_nothing_of_the_kind_is_found(safeguard: str) -> None:
    row = ROWS[safeguard]
    begin = row.begin()

    found = explored(begin)

    assert found.complete
    assert found.doubts == {}
    least = steps_to(found, row.shown_as)
    assert least == 0 or least > row.steps


@pytest.mark.parametrize("safeguard", REPEATED)
def test_a_crash_misses_the_safeguards_against_copies_too(
    safeguard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = TABLE[safeguard]
    mutate(monkeypatch, Mutant(row.place, row.changes))
    begin = Row((), str(row.ordering), row.shown_as, 0, CRASH, "", row.scenario).begin()

    found = explored(begin, Bounds(reduce=False))

    assert steps_to(found, REPEATED[safeguard]) > 0

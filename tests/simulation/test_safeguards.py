"""The mutation table: each safeguard is taken away in turn, and somebody notices.

A mutant is a function of a core with some words of its source replaced. The explorer finds what
that breaks, in a pinned number of steps, and the checker confirms it on the schedule's history.
"""

from functools import cache

import pytest
from support.exploring import answer, schedule
from support.mutants import Mutant, mutate
from support.safeguards import NO_FAULT, PATCH, QUIET, REDUNDANT, TABLE, UNCONFIRMED, UNLOAD, Row

from teardown_lab.explorer.findings import DOUBTS
from teardown_lab.explorer.schedule import Schedule
from teardown_lab.explorer.stage import Stage
from teardown_lab.explorer.strategy import Bounds
from teardown_lab.explorer.verdict import ExplorerVerdict

pytestmark = [pytest.mark.spread, pytest.mark.slow]


def explored(row: Row) -> ExplorerVerdict:
    return answer(row.begin(), Bounds(reduce=False)).verdict


@cache
def real(begin: Schedule) -> ExplorerVerdict:
    return answer(begin, Bounds(reduce=False)).verdict


def steps_to(verdict: ExplorerVerdict, shown_as: str) -> int:
    ways = {**verdict.explored.paths, **verdict.explored.doubts}
    return min((len(way) for key, way in ways.items() if key[0] == shown_as), default=0)


@pytest.mark.parametrize("safeguard", TABLE)
def test_a_safeguard_that_is_taken_away_is_missed(
    safeguard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = TABLE[safeguard]
    before = real(row.begin())
    mutate(monkeypatch, Mutant(row.place, row.changes))

    verdict = explored(row)

    print(f"{safeguard}: {row.shown_as} in {steps_to(verdict, row.shown_as)} steps")
    assert before.verdict == row.alone
    assert before.explored.doubts == {}
    assert steps_to(verdict, row.shown_as) == row.steps
    if row.shown_as in DOUBTS:
        doubts = [note for note in verdict.notes if note.startswith(row.shown_as)]
        assert doubts
        assert "the checker sees nothing wrong" not in " ".join(doubts)
    elif safeguard in UNCONFIRMED:
        assert all(UNCONFIRMED[safeguard] in each for each in verdict.disagreements)
    else:
        assert verdict.verdict == "violated"
        assert row.shown_as in {str(each.invariant) for each in verdict.violations}
        assert verdict.disagreements == ()


def test_an_unload_without_its_flush_is_a_vacuous_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing breaks where nobody flushes: explorer and checker say that nothing was shown."""
    change = (('requests.flush_tlb(vm, "unload", message.vcpu)', "(vm, (), frozenset())"),)
    mutate(monkeypatch, Mutant(UNLOAD, change))
    begin = schedule(PATCH, QUIET, NO_FAULT)
    stage = Stage(begin)
    stage.finish()

    verdict = answer(begin).verdict

    assert (verdict.verdict, verdict.missing) == ("inconclusive", ("unload-flushed",))
    assert stage.judgement().vacuity is not None


@pytest.mark.parametrize("safeguard", REDUNDANT)
def test_a_safeguard_with_a_second_behind_it_is_not_missed(
    safeguard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = REDUNDANT[safeguard]
    mutate(monkeypatch, Mutant(row.place, row.changes))

    verdict = explored(row)

    assert verdict.verdict == row.shown_as
    assert verdict.explored.doubts == {}

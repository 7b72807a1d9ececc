"""The whole catalogue, explored: each verdict, and how many states there are."""

from pathlib import Path

import pytest
from support.exploring import ONE_TICK, answer, explored, found_kinds, schedule, shipped, unreduced

from teardown_lab.explorer.faults import Budget
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.scenario import Scenario

pytestmark = pytest.mark.spread

SHAPES = {
    "distinct": {"roots": "distinct"},
    "shared": {"roots": "shared"},
    "tdp": {"mmu": "tdp"},
}
STATES = {
    ("zap-all-per-vcpu", "distinct"): (15, 138, 141),
    ("zap-all-per-vcpu", "shared"): (15, 138, 141),
    ("zap-all-per-vcpu", "tdp"): (15, 138, 141),
    ("unload-all-first", "distinct"): (23, 42, 61),
    ("unload-all-first", "shared"): (23, 42, 61),
    ("unload-all-first", "tdp"): (23, 42, 61),
    ("unload-all-first-wipe-last", "distinct"): (25, 54, 91),
    ("unload-all-first-wipe-last", "shared"): (25, 46, 67),
    ("unload-all-first-wipe-last", "tdp"): (19, 34, 49),
    ("unload-all-late-erase-each", "distinct"): (25, 54, 91),
    ("unload-all-late-erase-each", "shared"): (25, 46, 67),
    ("unload-all-late-erase-each", "tdp"): (19, 34, 49),
    ("vm-state-before-vcpus", "distinct"): (25, 54, 91),
    ("vm-state-before-vcpus", "shared"): (25, 46, 67),
    ("vm-state-before-vcpus", "tdp"): (19, 34, 49),
    ("unload-all-first-erase-each", "distinct"): (25, 54, 91),
    ("unload-all-first-erase-each", "shared"): (25, 46, 67),
    ("unload-all-first-erase-each", "tdp"): (19, 34, 49),
    ("unload-in-destroy", "distinct"): (21, 44, 73),
    ("unload-in-destroy", "shared"): (21, 36, 51),
    ("unload-in-destroy", "tdp"): (15, 26, 37),
    ("unload-in-destroy-wipe-last", "distinct"): (21, 46, 79),
    ("unload-in-destroy-wipe-last", "shared"): (21, 38, 55),
    ("unload-in-destroy-wipe-last", "tdp"): (15, 26, 37),
    ("unload-in-destroy-stop-at-hole", "distinct"): (21, 42, 67),
    ("unload-in-destroy-stop-at-hole", "shared"): (21, 34, 49),
    ("unload-in-destroy-stop-at-hole", "tdp"): (15, 26, 37),
    ("ticker-left-running", "distinct"): (31, 76, 143),
    ("ticker-left-running", "shared"): (31, 66, 114),
    ("ticker-left-running", "tdp"): (24, 54, 96),
    ("async-pf-not-cleared", "distinct"): (21, 44, 73),
    ("async-pf-not-cleared", "shared"): (21, 36, 51),
    ("async-pf-not-cleared", "tdp"): (15, 26, 37),
    ("parallel-destroy", "distinct"): (21, 164, 3825),
    ("parallel-destroy", "shared"): (21, 140, 1011),
    ("parallel-destroy", "tdp"): (15, 50, 173),
    ("fenced-parallel-destroy", "distinct"): (19, 70, 341),
    ("fenced-parallel-destroy", "shared"): (19, 62, 233),
    ("fenced-parallel-destroy", "tdp"): (15, 50, 173),
}
"""States of 1, 2 and 3 vCPUs with one tick, reduced. A changed count is a changed protocol: find
out which message comes or goes, then take the new row from the failure."""
WITH_FOUR = {
    "zap-all-per-vcpu": 144,
    "unload-all-first": 80,
    "unload-all-first-wipe-last": 136,
    "unload-all-late-erase-each": 136,
    "vm-state-before-vcpus": 136,
    "unload-all-first-erase-each": 136,
    "unload-in-destroy": 108,
    "unload-in-destroy-wipe-last": 120,
    "unload-in-destroy-stop-at-hole": 96,
    "ticker-left-running": 234,
    "async-pf-not-cleared": 108,
    "parallel-destroy": 199794,
    "fenced-parallel-destroy": 2472,
}
"""States of 4 vCPUs with roots of their own."""

STATES_OF = {
    name: (
        getattr(catalogue_entry(name).expected(Scenario(vcpus=3)), "explore", ""),
        *STATES[name, "distinct"],
        WITH_FOUR[name],
    )
    for name in catalogue_names()
}
"""What the page shows of each entry: the verdict with 3 vCPUs, the states of 1 to 4."""

PAGE = Path(__file__).parents[2] / "docs" / "explorer.md"

RICH = [
    {"avic": True},
    {"nested": (0,)},
    {"nested": (0, 1), "avic": True},
    {"mmu": "tdp", "nested": (0,)},
    {"async_pf": 1},
    {"in_guest": (0,)},
    {"in_guest": (0, 1)},
    {"previous_roots": 2},
    {"roots": "mixed"},
    {"ticker": False},
]
EVERY_FAULT = Budget(ticks=1, duplicate=1, redeliver=1, hold=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", catalogue_names())
def test_every_entry_is_explored_to_the_end_with_the_expected_verdict(
    name: str, shape: str
) -> None:
    entry = catalogue_entry(name)
    counts = []
    for vcpus in (1, 2, 3):
        scenario = Scenario.model_validate({"vcpus": vcpus, **SHAPES[shape]})
        expected = entry.expected(scenario)

        found = answer(schedule(name, scenario))

        assert expected is not None
        assert found.verdict.verdict == expected.explore
        assert found.explored.complete
        assert found.explored.is_reduced
        assert found.verdict.missing == ()
        assert found.verdict.disagreements == ()
        counts.append(found.explored.states)
    assert tuple(counts) == STATES[name, shape]


@pytest.mark.slow
@pytest.mark.parametrize("name", catalogue_names())
def test_four_vcpus_are_explored_to_the_end_with_the_expected_verdict(name: str) -> None:
    entry, scenario = catalogue_entry(name), Scenario(vcpus=4)
    expected = entry.expected(scenario)

    found = explored(schedule(name, scenario))

    assert expected is not None
    assert found.complete
    assert found.doubts == {}
    assert ("violated" if found.paths else "safe") == expected.explore
    assert found.states == WITH_FOUR[name]


def test_the_page_shows_these_counts_and_verdicts() -> None:
    shown = {row[0]: (row[1], *map(number, row[2:])) for row in rows_of_the_page(6)}

    assert shown == STATES_OF


@pytest.mark.slow
def test_the_page_shows_what_the_reduction_saves() -> None:
    rows = rows_of_the_page(3)

    assert len(rows) == 4
    for name, fewer, every in rows:
        assert number(fewer) == STATES[name, "distinct"][2]
        assert number(every) == unreduced(schedule(name, 3)).states


def rows_of_the_page(cell_count: int) -> list[list[str]]:
    """Return the rows of the page's tables that begin with an ordering and have so many cells."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if len(row) == cell_count and row[0] in STATES_OF]


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


@pytest.mark.parametrize("name", catalogue_names())
def test_the_scenario_that_shows_the_point_is_explored_with_the_expected_verdict(name: str) -> None:
    entry = catalogue_entry(name)
    scenario = entry.show.model_copy(update={"vcpus": 2})
    expected = entry.expected(scenario)

    found = answer(schedule(name, scenario))

    assert expected is not None
    assert found.verdict.verdict == expected.explore
    assert found.verdict.disagreements == ()


@pytest.mark.parametrize("shape", RICH, ids=str)
def test_richer_scenarios_are_explored_with_the_expected_verdicts(shape: dict[str, object]) -> None:
    scenario = Scenario.model_validate({"vcpus": 2, **shape})
    for name in catalogue_names():
        expected = catalogue_entry(name).expected(scenario)

        found = explored(schedule(name, scenario))

        assert expected is not None
        assert found.complete, name
        assert ("violated" if found.paths else "safe") == expected.explore, name


@pytest.mark.slow
def test_the_patch_is_safe_with_every_fault() -> None:
    """One copy, one lost acknowledgement and one message held back, in every combination."""
    found = answer(schedule("unload-in-destroy", 3, EVERY_FAULT))

    assert found.explored.complete
    assert found.explored.witnessed >= {"duplicate", "redeliver", "hold", "unload-flushed"}
    assert found.verdict.verdict == "safe"


@pytest.mark.parametrize("fault", ["duplicate", "redeliver", "hold"])
def test_our_own_parallel_destroy_is_safe_with_each_fault(fault: str) -> None:
    found = answer(schedule("fenced-parallel-destroy", 3, Budget(ticks=1, **{fault: 1})))

    assert found.explored.complete
    assert found.verdict.verdict == "safe"


def test_without_the_fence_a_request_may_come_after_the_free() -> None:
    found = answer(schedule(shipped("unload-in-destroy", fence=False), 3))

    assert found.verdict.verdict == "violated"
    assert found_kinds(found.explored) == {("use-after-free", vcpu) for vcpu in range(3)}
    counterexample = found.verdict.counterexample
    assert counterexample is not None
    assert set(counterexample.kinds) == {"posted-before-free"}
    assert " is overtaken by unload-done/0/2.0/1: it waits from step 2 to step " in (
        counterexample.told.text
    )
    assert counterexample.told.text.endswith("posted before its free and delivered after it")


@pytest.mark.parametrize("name", ["parallel-destroy", "ticker-left-running"])
@pytest.mark.parametrize("vcpus", [2, 3])
def test_the_window_between_free_and_erase_is_named(name: str, vcpus: int) -> None:
    found = answer(schedule(name, vcpus))

    counterexample = found.verdict.counterexample
    assert found.verdict.verdict == "violated"
    assert counterexample is not None
    assert "posted in the window between its free and its erase" in counterexample.told.text
    assert set(counterexample.kinds) == {"posted-after-free", "posted-before-free"}
    assert found_kinds(found.explored) == {("use-after-free", vcpu) for vcpu in range(vcpus)}


def test_a_ticker_needs_one_tick_to_do_harm() -> None:
    assert explored(schedule("ticker-left-running", 2, Budget())).paths == {}
    assert explored(schedule("ticker-left-running", 2, ONE_TICK)).paths != {}

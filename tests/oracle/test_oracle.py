"""The product against an oracle that shares no code with it, on orderings that nobody has seen."""

import ast
from pathlib import Path

import pytest
from oracle import generator
from oracle.comparison import differences
from oracle.oracle import Expectation, expected
from oracle.sample import CHUNKS, SEED, Case, case, chunk
from support.randomness import seeded

SLOW = pytest.mark.slow
LONG_CHUNKS, LONG_CASES_OF_CHUNK = 20, 1_000
ALLOWED = {"collections", "collections.abc", "dataclasses", "itertools", "typing"}


def disagreements(cases: tuple[Case, ...]) -> list[str]:
    """Return the cases on which product and oracle differ though nothing races, and in what."""
    return [
        f"{each}\n  " + "\n  ".join(lines)
        for each in cases
        if (lines := disagreement(each, expected(each.ordering, each.scenario)))
    ]


def disagreement(one: Case, wanted: Expectation) -> list[str]:
    """Return what is wrong with a case; of a racy one, whether it came to a verdict at all."""
    if not wanted.racy:
        return differences(wanted, one.judgement)
    said = one.judgement
    undecided = str(said.verdict) not in ("safe", "violated") or said.counts.unaccounted
    return [f"racy, and no verdict: {said.verdict} {said.notes}"] if undecided else []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=SLOW) for n in range(1, CHUNKS))])
def test_the_product_agrees_with_the_oracle_on_random_orderings(number: int) -> None:
    print(f"TEARDOWN_TEST_SEED={SEED}")

    assert disagreements(chunk(number)) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_sample_holds_enough_of_each_kind() -> None:
    """A comparison of wrecks alone would show little: many are safe, few are racy."""
    cases = [each for number in range(CHUNKS) for each in chunk(number)]

    wanted = [expected(each.ordering, each.scenario) for each in cases]

    plain = [each for each in wanted if not each.racy]
    assert len(plain) > 0.8 * len(cases)
    assert sum(each.verdict == "safe" for each in plain) > 0.05 * len(cases)
    found = {invariant for each in plain for invariant, _ in each.violations}
    assert found >= {"use-after-free", "lost-request", "stuck", "stale-tlb", "memory-mapped"}


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(LONG_CHUNKS))
def test_the_product_agrees_with_the_oracle_on_new_orderings(number: int) -> None:
    """20,000 that nobody has seen before, of up to six vCPUs: another seed each time."""
    rng = seeded(f"oracle-{number}")

    wrong = [
        line
        for each in range(LONG_CASES_OF_CHUNK)
        for line in disagreements(
            (case(f"{number}.{each}", generator.ordering(rng), generator.scenario(rng, 6)),)
        )
    ]

    assert wrong == []


def test_the_oracle_imports_nothing_of_the_product() -> None:
    tree = ast.parse((Path(__file__).parent / "oracle.py").read_text(encoding="utf-8"))

    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    assert imported <= ALLOWED

"""Each rule of the oracle is broken in turn, and the comparison with the product notices."""

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from oracle import oracle
from oracle.comparison import differences
from oracle.mutations import DIRECTED, MUTATIONS, MUTATIONS_OF_RACES, RACES, UNREACHABLE
from oracle.sample import CHUNKS, Case, case, chunk

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
"""Whoever comes first runs the sample: a minute, on a machine that is busy many."""

SOURCE = Path(oracle.__file__).read_text(encoding="utf-8")


def broken(words: str, instead: str) -> Any:
    """Return `expected` of an oracle with some of its words replaced."""
    assert SOURCE.count(words) == 1, f"oracle.py has {words!r} {SOURCE.count(words)} times"
    mutant = ModuleType("oracle.mutant")
    exec(compile(SOURCE.replace(words, instead), "mutant", "exec"), vars(mutant))  # noqa: S102
    return mutant.expected


@cache
def directed() -> tuple[Case, ...]:
    return tuple(case(name, *each) for name, each in DIRECTED.items())


def notices(expected: Any) -> str:
    """Return the first case on which an oracle is seen to be wrong, empty if there is none."""
    for cases in (directed, *(lambda number=number: chunk(number) for number in range(CHUNKS))):
        for each in cases():
            wanted = expected(each.ordering, each.scenario)
            if not wanted.racy and differences(wanted, each.judgement):
                return str(each)
    return ""


@pytest.mark.parametrize("case", DIRECTED)
def test_a_directed_case_is_as_the_oracle_says(case: str) -> None:
    [one] = [each for each in directed() if each.name == case]
    wanted = oracle.expected(one.ordering, one.scenario)

    assert wanted.racy or differences(wanted, one.judgement) == []


@pytest.mark.parametrize("rule", MUTATIONS)
def test_a_rule_that_is_broken_is_missed(rule: str) -> None:
    seen = notices(broken(*MUTATIONS[rule]))

    assert seen
    print(f"{rule}: {seen}")


@pytest.mark.parametrize("rule", UNREACHABLE)
def test_a_rule_that_no_ordering_reaches_is_not_missed(rule: str) -> None:
    assert notices(broken(*UNREACHABLE[rule])) == ""


@pytest.mark.parametrize("reason", MUTATIONS_OF_RACES)
def test_a_race_is_called_racy_by_its_own_rule_alone(reason: str) -> None:
    """That each of these cases does end in more than one way, test_explorer.py shows."""
    without = broken(*MUTATIONS_OF_RACES[reason])

    assert oracle.expected(*RACES[reason]).racy == {reason}
    assert without(*RACES[reason]).racy == set()

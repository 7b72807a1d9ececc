"""The seeded cases of the normal suite, with what the product says of each, computed once."""

import os
import random
from dataclasses import dataclass
from functools import cache
from typing import Final

from oracle import generator
from oracle.comparison import Plain, product

from teardown_lab.checker.judgement import Judgement

CHUNKS: Final = 10
CASES_OF_CHUNK: Final = 200
SEED: Final = os.environ.get("TEARDOWN_TEST_SEED", "teardown")
"""The same cases each time, so that a change and its consequence meet; the long test wanders."""


@dataclass(frozen=True)
class Case:
    """One ordering and scenario, and the product's judgement of it."""

    name: str
    ordering: Plain
    scenario: Plain
    judgement: Judgement

    def __str__(self) -> str:
        return f"case {self.name}: ordering={self.ordering!r} scenario={self.scenario!r}"


def case(name: str, ordering: Plain, scenario: Plain) -> Case:
    return Case(name, ordering, scenario, product(ordering, scenario))


@cache
def chunk(number: int, seed: str = SEED) -> tuple[Case, ...]:
    """Return a tenth of the sample; the seed and the number tell all of it."""
    rng = random.Random(f"{seed}-{number}")
    return tuple(
        case(f"{seed}-{number}.{each}", generator.ordering(rng), generator.scenario(rng))
        for each in range(CASES_OF_CHUNK)
    )

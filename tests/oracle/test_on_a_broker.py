"""A few dozen random orderings on a real RabbitMQ, held against the oracle."""

import random
from pathlib import Path

import pytest
from oracle import generator
from oracle.comparison import as_ordering, as_scenario, differences
from oracle.oracle import expected
from support.runs import tear_down

from teardown_lab.experiment.lab import Lab

CHUNKS, CASES_OF_CHUNK = 4, 12
QUICK = {"fence_ms": 2_000, "request_ms": 2_000, "quarantine_ms": 20}


@pytest.mark.rabbitmq
@pytest.mark.parametrize("number", range(CHUNKS))
def test_runs_on_a_broker_end_as_the_oracle_says(
    number: int, rabbit_lab: Lab, workdir: Path
) -> None:
    rng = random.Random(f"broker-{number}")
    compared = 0
    while compared < CASES_OF_CHUNK:
        ordering, scenario = generator.ordering(rng), generator.scenario(rng)
        wanted = expected(ordering, scenario)
        if wanted.racy:
            continue
        compared += 1

        judgement, _ = tear_down(
            rabbit_lab, as_ordering(ordering), workdir, as_scenario({**scenario, **QUICK})
        )

        told = f"ordering={ordering!r} scenario={scenario!r}"
        assert differences(wanted, judgement) == [], told

"""Take-overs in memory: the fold is the state, and repeating changes no verdict and no count."""

import random
from functools import partial

import pytest
from support.mortal import Mortal
from support.randomness import seeded
from support.simulated import essence, run

from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.scenario import Scenario

SCENARIOS = {
    "shadow": Scenario(vcpus=3, ticker=False),
    "rich": Scenario(vcpus=4, ticker=False, async_pf=2, avic=True, nested=(0, 2)),
    "tdp": Scenario(vcpus=3, ticker=False, mmu="tdp", nested=(1,)),
    "shared": Scenario(vcpus=3, ticker=False, roots="shared", previous_roots=2),
    "guest": Scenario(vcpus=3, ticker=False, in_guest=(0, 1)),
}
SHIPPED = {name: catalogue_entry(name) for name in catalogue_names()}
STEADY = [name for name, entry in SHIPPED.items() if not entry.racy]


def deaths(rng: random.Random, count: int) -> dict[int, tuple[int, int]]:
    """Return at which inputs the manager dies, after how many actions, and what nobody noted."""
    inputs = rng.sample(range(1, 40), count)
    return {number: (rng.randrange(6), rng.randrange(4)) for number in inputs}


@pytest.mark.parametrize("shape", SCENARIOS)
@pytest.mark.parametrize("name", STEADY)
def test_a_manager_that_dies_anywhere_changes_neither_verdict_nor_counts(
    name: str, shape: str
) -> None:
    rng = seeded(f"take-overs {name} {shape}")
    ordering, scenario = SHIPPED[name].ordering, SCENARIOS[shape]
    undisturbed = essence(run(ordering, scenario))

    for count in (1, 1, 1, 3):
        wanted = deaths(rng, count)
        print(f"deaths: {wanted}")
        finished = run(ordering, scenario, manager=partial(Mortal, deaths=dict(wanted)))
        assert essence(finished) == undisturbed, wanted

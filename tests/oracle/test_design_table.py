"""The oracle against the design's table of exact counts and against the catalogue's expectations.

The table was derived by hand and counted in recorded kernels (n vCPUs, defaults): were the oracle
wrong in the same way as the product, it would be wrong here too.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from oracle.oracle import Expectation, expected

CATALOGUE = Path(__file__).parents[2] / "services/vm_manager/orderings"
PATCH, WIPE_LAST = "unload-in-destroy", "unload-in-destroy-wipe-last"
HOLE, ALL_FIRST = "unload-in-destroy-stop-at-hole", "unload-all-first-erase-each"
SIZES = range(1, 7)
SHAPES = {
    "distinct": {"roots": "distinct"},
    "shared": {"roots": "shared"},
    "tdp": {"mmu": "tdp"},
}
AT_ONCE = {"vCPUs are destroyed at once"}


def entry(name: str) -> dict[str, Any]:
    text = (CATALOGUE / f"{name}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def of(name: str, n: int, shape: str) -> Expectation:
    return expected(entry(name), {"vcpus": n, "ticker": False, **SHAPES[shape]})


def count(found: Expectation, invariant: str) -> int:
    return sum(n for (name, _), n in found.violations.items() if name == invariant)


@pytest.mark.parametrize("n", SIZES)
def test_use_after_frees_are_as_derived_by_hand(n: int) -> None:
    assert count(of(WIPE_LAST, n, "distinct"), "use-after-free") == n * (n - 1) // 2
    assert count(of(WIPE_LAST, n, "shared"), "use-after-free") == n - 1
    assert count(of(WIPE_LAST, n, "tdp"), "use-after-free") == 0
    assert [of(PATCH, n, shape).verdict for shape in SHAPES] == ["safe"] * 3


@pytest.mark.parametrize("n", SIZES)
def test_requests_by_flushes_of_unloads_are_as_counted_in_kernels(n: int) -> None:
    requests = {
        (name, shape): of(name, n, shape).unload_flush_requests
        for name in (ALL_FIRST, PATCH)
        for shape in SHAPES
    }

    assert requests == {
        (ALL_FIRST, "distinct"): n * n,
        (ALL_FIRST, "shared"): n,
        (ALL_FIRST, "tdp"): 0,
        (PATCH, "distinct"): n * (n + 1) // 2,
        (PATCH, "shared"): 1,
        (PATCH, "tdp"): 0,
    }


@pytest.mark.parametrize("n", SIZES)
def test_lost_requests_are_as_derived_by_hand(n: int) -> None:
    assert count(of(HOLE, n, "distinct"), "lost-request") == n * (n - 1) // 2
    assert count(of(HOLE, n, "shared"), "lost-request") == int(n > 1)
    assert count(of(HOLE, n, "tdp"), "lost-request") == 0


def scenarios() -> Iterator[dict[str, Any]]:
    """Yield every combination of what a scenario may say, of one to three vCPUs: 4,608."""
    for vcpus in (1, 2, 3):
        some: list[list[int]] = [[], [0], [vcpus - 1], list(range(vcpus))]
        fields = {
            "mmu": ["shadow", "tdp"],
            "roots": ["distinct", "shared", "mixed"],
            "previous_roots": [0, 2],
            "async_pf": [0, 1],
            "ticker": [False, True],
            "avic": [False, True],
            "nested": some,
            "in_guest": some,
        }
        for values in product(*fields.values()):
            yield {"vcpus": vcpus, **dict(zip(fields, values, strict=True))}


@pytest.mark.parametrize("path", sorted(CATALOGUE.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_catalogue_expects_what_the_oracle_says_in_every_scenario(path: Path) -> None:
    """How vCPUs end that are destroyed at once, is for the explorer to say."""
    ordering = entry(path.stem)

    wrong = [
        (row, scenario, found.violations, found.racy)
        for scenario in scenarios()
        if not (found := expected(ordering, scenario)).racy & AT_ONCE
        for row in [next(row for row in ordering["expect"] if fits(row.get("when", {}), scenario))]
        if row["run"] != (["safe", "violated"] if found.racy else [found.verdict])
    ]

    assert wrong == []


def fits(when: dict[str, Any], scenario: dict[str, Any]) -> bool:
    """Tell whether a row is for a scenario; `any` stands for all that is not empty or zero."""
    return all(
        bool(scenario[name]) if value == "any" else scenario[name] == value
        for name, value in when.items()
    )

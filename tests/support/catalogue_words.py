"""What the lab says of the whole catalogue in many scenarios: frozen, so that no change is silent.

One file for each ordering in `tests/simulation/catalogue_words/`, one line for each scenario:
verdict, exit codes (plain and strict), counts, violations and hazards by vCPU, and the hash of the
whole report that a person reads. `TEARDOWN_GOLDEN=write pytest tests/simulation/
test_catalogue_words.py` writes them anew; a change belongs into the changelog.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from support.golden import IS_WRITING
from support.simulated import run
from teardown_lab.checker.gathering import gather
from teardown_lab.checker.history import History
from teardown_lab.checker.verdict import exit_code
from teardown_lab.report.text import describe
from vm_manager.catalogue import catalogue_entry
from vm_protocol.scenario import Scenario

Shape = dict[str, Any]
FOLDER: Final = Path(__file__).parent.parent / "simulation" / "catalogue_words"
MMUS: Final = ("shadow", "tdp")
SIZES: Final = (1, 2, 4)


def shapes() -> Iterator[Shape]:
    """Yield the scenarios: each trait alone under both MMUs, some together, for three sizes."""
    for vcpus in SIZES:
        last = vcpus - 1
        traits: tuple[Shape, ...] = (
            {"roots": "distinct"},
            {"roots": "shared"},
            {"roots": "mixed"},
            {"avic": True},
            {"nested": [0]},
            {"nested": [last]},
            {"in_guest": [last]},
            {"in_guest": list(range(vcpus))},
            {"async_pf": 2},
            {"previous_roots": 3},
            {"ticker": False},
            {"ticker": False, "in_guest": [0]},
            {"nested": [0], "avic": True, "in_guest": [last], "previous_roots": 1, "async_pf": 1},
        )
        for mmu in MMUS:
            yield from ({"vcpus": vcpus, "mmu": mmu, **trait} for trait in traits)


def words_of(name: str) -> list[str]:
    """Return a line for each scenario of one ordering of the catalogue."""
    return [json.dumps({"scenario": shape, **_said(name, shape)}) for shape in shapes()]


def frozen_words(name: str, now: list[str]) -> list[str]:
    """Return the lines of the ordering's golden file, after writing it if that is asked for."""
    file = FOLDER / f"{name}.jsonl"
    if IS_WRITING:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(now) + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").splitlines()


def _said(name: str, shape: Shape) -> Shape:
    scenario = {key: tuple(each) if isinstance(each, list) else each for key, each in shape.items()}
    ordering = catalogue_entry(name).ordering
    found = run(ordering, Scenario.model_validate(scenario), workers=2)
    judgement = found.judgement
    facts = gather(replace(History.of(found.records), path="history.jsonl"))
    report = describe(judgement, facts, verbose=True)
    return {
        "verdict": judgement.verdict,
        "exits": [exit_code(judgement), exit_code(judgement, strict=True)],
        "counts": judgement.to_json("")["counts"],
        "violations": _tally((each.invariant, each.vcpu) for each in judgement.violations),
        "hazards": _tally((each.hazard, each.vcpu) for each in judgement.hazards),
        "report": hashlib.sha256(report.encode()).hexdigest()[:16],
    }


def _tally(found: Iterable[tuple[str, int | None]]) -> dict[str, int]:
    return dict(sorted(Counter(f"{kind} {vcpu}" for kind, vcpu in found).items()))

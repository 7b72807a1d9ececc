"""Running a teardown in a test, and comparing what two of them say."""

from collections import Counter
from pathlib import Path
from typing import Any

from teardown_lab.checker.history import load_history
from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, RunOptions
from vm_manager.catalogue import catalogue_entry
from vm_protocol.observations import Event
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

WORKERS = 2


def tear_down(
    lab: Lab,
    ordering: str | Ordering,
    workdir: Path,
    scenario: Scenario | None = None,
    workers: int = WORKERS,
    **shape: Any,
) -> tuple[Judgement, list[Record]]:
    """Run one teardown; return its judgement and its records."""
    scenario = scenario or Scenario(**shape)
    if isinstance(ordering, str):
        ordering = catalogue_entry(ordering).ordering
    history = workdir / f"{len(list(workdir.iterdir()))}.jsonl"
    options = RunOptions(history=history, timeout_s=60)
    workers = min(workers, scenario.vcpus)
    finished = lab.run(ordering, scenario, workers, options)
    return finished.judgement, list(load_history(finished.history).records)


def posted(records: list[Record], *by: str) -> list[list[int]]:
    """Return the recipients of each request that was raised by one of these."""
    return [
        record.details["recipients"]
        for record in records
        if record.event == Event.REQUEST_POSTED and record.details["by"] in by
    ]


def broken(judgement: Judgement) -> dict[str, int]:
    """Return how often each invariant was broken."""
    return dict(Counter(str(each.invariant) for each in judgement.violations))


def essence(judgement: Judgement) -> dict[str, Any]:
    """Return all that two runs of one ordering must agree on, whatever they ran on."""
    return {
        "verdict": str(judgement.verdict),
        "violations": Counter((str(v.invariant), v.vcpu) for v in judgement.violations),
        "hazards": Counter((str(h.hazard), h.vcpu) for h in judgement.hazards),
        "dead_letters": Counter(
            (letter.reason, letter.vcpu, str(letter.invariant)) for letter in judgement.dead_letters
        ),
        "counts": judgement.counts,
        "vacuity": judgement.vacuity,
        "notes": judgement.notes,
    }

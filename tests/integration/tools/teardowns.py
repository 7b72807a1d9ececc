"""Teardowns of the two orderings of first light, held against their cells of the table."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support import expectations

from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, RunOptions
from vm_manager.catalogue import catalogue_entry
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

VCPUS = 8
CELLS = {
    "unload-in-destroy": expectations.unload_in_destroy,
    "unload-in-destroy-wipe-last": expectations.wipe_last,
}


def hold_against(judgement: Judgement, cell: expectations.Cell) -> None:
    violations = Counter(str(each.invariant) for each in judgement.violations)
    wanted = {"use-after-free": cell.use_after_free} if cell.use_after_free else {}
    assert dict(violations) == wanted, judgement.notes
    assert judgement.notes == ()
    assert len(judgement.dead_letters) == cell.use_after_free
    assert judgement.counts.unload_flush_requests == cell.unload_flush_requests
    assert judgement.counts.unaccounted == 0


def tear_down(lab: Lab, name: str, on_record: Callable[[Record], None], history: Path) -> Judgement:
    scenario = Scenario(vcpus=VCPUS)
    options = RunOptions(timeout_s=60, history=history)
    return lab.run(catalogue_entry(name).ordering, scenario, 2, options, on_record).judgement


def hold_teardown(lab: Lab, history: Path) -> None:
    """Tear a VM down that needs all capacity there is; the verdict and the counts are right."""
    judgement = tear_down(lab, "unload-in-destroy-wipe-last", lambda _: None, history)
    hold_against(judgement, expectations.wipe_last(VCPUS, "distinct", "shadow"))

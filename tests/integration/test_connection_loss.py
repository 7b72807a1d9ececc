"""Connections are cut in the middle of teardowns; the verdict is the one of an undisturbed run."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from integration.tools.proxy import Proxy
from support import expectations
from support.randomness import seeded

from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, LabOptions, RunOptions, open_lab
from vm_manager.catalogue import catalogue_entry
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

pytestmark = pytest.mark.rabbitmq

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


class Cuts:
    """Cuts all connections when the n-th records after a first event arrive."""

    def __init__(self, cut: Callable[[], None], moments: set[int], first: Event) -> None:
        self._cut = cut
        self._moments = moments
        self._first = first
        self._seen = 0

    def __call__(self, record: Record) -> None:
        if self._seen or record.event == self._first:
            self._seen += 1
        if self._seen in self._moments:
            self._cut()


def tear_down(lab: Lab, name: str, cuts: Cuts, history: Path) -> Judgement:
    scenario = Scenario(vcpus=VCPUS)
    options = RunOptions(timeout_s=30, history=history)
    return lab.run(catalogue_entry(name).ordering, scenario, 2, options, cuts).judgement


@pytest.mark.parametrize("name", CELLS)
def test_cut_connections_change_no_count(proxy: Proxy, tmp_path: Path, name: str) -> None:
    random = seeded(f"cuts-{name}")
    options = LabOptions(broker=proxy.url, workers=2, vcpus=VCPUS)
    with open_lab(options, print) as lab:
        for run in range(10):
            moments = set(random.sample(range(1, 300), 3))
            print(f"run {run}: cuts at records {sorted(moments)}")

            cuts = Cuts(proxy.cut, moments, Event.TEARDOWN_STARTED)
            judgement = tear_down(lab, name, cuts, tmp_path / f"{run}.jsonl")

            hold_against(judgement, CELLS[name](VCPUS, "distinct", "shadow"))
    assert proxy.cut_count >= 10

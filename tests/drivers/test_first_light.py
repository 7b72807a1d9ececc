"""One suite, two drivers: the seed's bug, in exact counts."""

from pathlib import Path

import pytest
from support import expectations
from support.randomness import seeded
from support.runs import broken, posted, tear_down

from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, LabOptions, open_lab
from vm_protocol.wire import Record

CELLS = {
    "unload-in-destroy": expectations.unload_in_destroy,
    "unload-in-destroy-wipe-last": expectations.wipe_last,
}
SHAPES = [("distinct", "shadow"), ("shared", "shadow"), ("distinct", "tdp")]


def hold_against(judgement: Judgement, records: list[Record], cell: expectations.Cell) -> None:
    counts = judgement.counts
    wanted = {"use-after-free": cell.use_after_free} if cell.use_after_free else {}
    assert broken(judgement) == wanted
    assert str(judgement.verdict) == ("violated" if cell.use_after_free else "safe")
    assert [each.reason for each in judgement.dead_letters] == ["rejected"] * cell.use_after_free
    assert counts.dead_letters == cell.use_after_free
    assert counts.unload_flush_requests == cell.unload_flush_requests
    assert counts.unaccounted == 0
    assert counts.flush_deliveries == counts.flush_acks + cell.use_after_free
    assert sum(map(len, posted(records, "pit", "zap-all"))) == cell.before_vcpus
    assert sum(map(len, posted(records, "unload"))) == cell.unload_flush_requests


@pytest.mark.parametrize(("roots", "mmu"), SHAPES)
@pytest.mark.parametrize("name", CELLS)
def test_counts_are_those_of_the_table(
    lab: Lab, workdir: Path, name: str, roots: str, mmu: str
) -> None:
    n = seeded(f"{name}-{roots}-{mmu}").randint(1, 8)
    print(f"n = {n}")

    judgement, records = tear_down(lab, name, workdir, vcpus=n, roots=roots, mmu=mmu)

    hold_against(judgement, records, CELLS[name](n, roots, mmu))
    assert (judgement.vacuity is not None) == (mmu == "tdp")


@pytest.mark.parametrize("name", CELLS)
def test_one_vcpu_shows_nothing(lab: Lab, workdir: Path, name: str) -> None:
    judgement, records = tear_down(lab, name, workdir, vcpus=1)

    hold_against(judgement, records, CELLS[name](1, "distinct", "shadow"))


def test_flush_k_reaches_exactly_k_to_the_last(lab: Lab, workdir: Path) -> None:
    n = seeded("recipients").randint(2, 8)

    _, records = tear_down(lab, "unload-in-destroy", workdir, vcpus=n)

    assert posted(records, "unload") == expectations.recipients_of_unload_flushes(n)


def test_tdp_says_why_it_shows_nothing(lab: Lab, workdir: Path) -> None:
    judgement, _ = tear_down(lab, "unload-in-destroy-wipe-last", workdir, mmu="tdp")

    assert judgement.vacuity is not None
    assert (judgement.vacuity.flushes, str(judgement.vacuity.why)) == (0, "tdp")
    assert str(judgement.verdict) == "safe"


@pytest.mark.rabbitmq
@pytest.mark.parametrize("name", CELLS)
def test_one_worker_for_each_vcpu_changes_nothing(amqp_url: str, workdir: Path, name: str) -> None:
    n = seeded(f"{name}-workers").randint(2, 5)
    with open_lab(LabOptions(broker=amqp_url, workers=n, vcpus=n), print) as lab:
        judgement, records = tear_down(lab, name, workdir, workers=n, vcpus=n)

    hold_against(judgement, records, CELLS[name](n, "distinct", "shadow"))
    workers = {record.actor for record in records if record.actor.startswith("worker.")}
    assert len(workers) == n


def test_one_simulated_worker_for_each_vcpu_changes_nothing(
    simulated_lab: Lab, workdir: Path
) -> None:
    judgement, records = tear_down(
        simulated_lab, "unload-in-destroy-wipe-last", workdir, workers=6, vcpus=6
    )

    hold_against(judgement, records, expectations.wipe_last(6, "distinct", "shadow"))

"""Runs of the catalogue, retold as if another manager had taken over in their middle."""

from dataclasses import replace

import pytest
from support.simulated import run

from teardown_lab.checker import History, Judgement, Verdict, judge
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

RICH = Scenario(vcpus=3, async_pf=1, avic=True, nested=(1,), in_guest=(0,), previous_roots=1)
FIRST, SECOND = "manager.1", "manager.2"
REPEATED, STALE = 9, 14


def retold(records: tuple[Record, ...], part: float) -> tuple[list[Record], int]:
    """Return a history in which the second manager goes on after a part of the first one's records.

    The second writes some of the first one's records again, and the first goes on for a while: of
    the two, nobody heard the first.
    """
    own = [record for record in records if record.actor == FIRST]
    end = int(len(own) * part)
    before = own[end - 1]
    details = {"predecessor": 1, "entry": 3, "seq": end, "repeated": 2}
    takeover = before.model_copy(
        update={
            "actor": SECOND,
            "seq": 0,
            "event": Event.MANAGER_TOOK_OVER,
            "details": details,
            "message_id": None,
            "vcpu": None,
            "step": None,
        }
    )
    told: list[Record] = []
    for record in records:
        if record.actor != FIRST or record.seq < end:
            told.append(record)
            continue
        if record.seq == end:
            told += [takeover, *own[max(0, end - REPEATED) : end]]
        told.append(record.model_copy(update={"actor": SECOND, "seq": record.seq - end + 1}))
    stale = own[end : end + STALE]
    return [*told, *stale], len(stale)


def essence(judgement: Judgement) -> Judgement:
    """Return what a take-over may not change: who sent a message is another's name after it."""
    return replace(judgement, takeovers=(), stale_records=0, messages={})


@pytest.mark.parametrize("name", catalogue_names())
def test_a_take_over_anywhere_changes_nothing_but_names(name: str) -> None:
    finished = run(catalogue_entry(name).ordering, RICH, workers=2)
    undisturbed = finished.judgement

    for part in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        records, stale = retold(finished.records, part)
        judgement = judge(History.of(records))

        assert essence(judgement) == essence(undisturbed)
        assert [each.by for each in judgement.takeovers] == [SECOND]
        assert judgement.stale_records == stale


def whole(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """Return a run's records as those of services that served nobody else: a gap is a loss."""
    begun, *others = records
    assert begun.event == Event.RUN_STARTED
    return begun.model_copy(update={"details": begun.details | {"whole": True}}), *others


@pytest.mark.slow
@pytest.mark.parametrize("name", catalogue_names())
def test_no_record_cut_out_of_a_take_over_turns_a_verdict_around(name: str) -> None:
    entry = catalogue_entry(name)
    scenario = entry.show.model_copy(update={"vcpus": 2})
    told, _ = retold(whole(run(entry.ordering, scenario, workers=2).records), 0.6)
    verdict = judge(History.of(told)).verdict

    others = {
        judge(History.of(told[:place] + told[place + 1 :])).verdict for place in range(len(told))
    }

    assert others <= {verdict, Verdict.INCONCLUSIVE}

"""A flush that an unload owed and never raised is a finding; one whose records are lost is none."""

import re

import pytest
from forged.runs import records_of
from support.forging import renumbered

from teardown_lab.checker import History, Judgement, judge
from vm_protocol.observations import Event
from vm_protocol.wire import Record

RUNS = ("the patch", "all unloaded first", "in guest, one root")


def unload_flushes(records: tuple[Record, ...]) -> list[Record]:
    """Return the posts of the flushes that unloads raised, in their order."""
    posts = [each for each in records if each.event is Event.REQUEST_POSTED]
    return [each for each in posts if each.details["by"] == "unload"]


def without(records: tuple[Record, ...], post: Record) -> list[Record]:
    """Return the records as if the journal had lost all about one request."""
    message = post.message_id
    kept = [each for each in records if message not in (each.message_id, each.caused_by)]
    return renumbered(kept)


def never_raised(records: tuple[Record, ...], post: Record) -> Judgement:
    """Judge the run as a manager would tell it that numbered no request for an unload.

    Only for the newest request: its number is then in fences alone, and those name the one before.
    """
    lost = post.details["generation"]
    told = []
    for each in without(records, post):
        details = dict(each.details)
        body = details.get("body")
        if isinstance(body, dict) and body.get("generation") == lost:
            details["body"] = {**body, "generation": lost - 1}
        if details.get("generation") == lost:
            details["generation"] = lost - 1
        told.append(each.model_copy(update={"details": details}))
    return judge(History.of(told))


@pytest.mark.parametrize("name", RUNS)
def test_a_flush_that_was_owed_and_not_raised_misses_each_vcpu_that_was_there(name: str) -> None:
    records = records_of(name)
    *_, last = unload_flushes(records)

    judgement = never_raised(records, last)

    assert judgement.verdict == "violated"
    assert not judgement.notes
    assert {each.invariant for each in judgement.violations} == {"lost-request"}
    assert [each.vcpu for each in judgement.violations] == last.details["recipients"]
    assert {each.message_id for each in judgement.violations} == {last.caused_by}
    for each in judgement.violations:
        culprit, _, how = each.explain.partition(". ")
        missed = f"of vCPU {last.vcpu} raised no TLB flush, and vCPU {each.vcpu} missed it"
        assert re.fullmatch(rf"`unload_mmu`, line \d+, {missed}", culprit)
        assert "no TlbFlush was raised" in how


@pytest.mark.parametrize("name", RUNS)
def test_a_flush_whose_records_are_lost_was_raised_as_its_number_shows(name: str) -> None:
    records = records_of(name)

    for post in unload_flushes(records):
        judgement = judge(History.of(without(records, post)))

        assert judgement.verdict == "inconclusive", post.message_id
        assert any("generations of requests not in" in note for note in judgement.notes)

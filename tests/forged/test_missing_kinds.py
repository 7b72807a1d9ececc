"""All records of a kind are missing, or one names another root: no violation comes of it."""

import pytest
from forged.runs import records_of
from support.forging import forgeries, renumbered

from teardown_lab.checker import History, judge
from vm_protocol.observations import Event


def test_without_every_guest_left_no_translation_is_called_stale() -> None:
    records = records_of("in guest, one root")

    judgement = judge(
        History.of(renumbered([each for each in records if each.event is not Event.GUEST_LEFT]))
    )

    assert judgement.verdict == "inconclusive"
    assert any("but guest.left is not in the history" in note for note in judgement.notes)


@pytest.mark.parametrize("vcpu", [0, 1])
def test_without_the_answer_that_a_request_waited_for_nothing_is_called_stale(vcpu: int) -> None:
    records = records_of("in guest, one root")
    answer = f"vm-0.1/request-acked/1/{vcpu}"

    judgement = judge(
        History.of(
            renumbered(
                [each for each in records if answer not in (each.message_id, each.caused_by)]
            )
        )
    )

    assert judgement.verdict == "inconclusive"
    note = f"vCPU {vcpu} took vm-0.1/request/1, but its RequestAcked is not in the history"
    assert note in judgement.notes


def test_a_free_of_a_root_under_anothers_name_is_no_second_free() -> None:
    found = [
        each
        for each in forgeries(records_of("the patch"))
        if (each.kind.event, each.kind.how) == ("root.freed", "another's")
        and each.kind.field == "details.root"
    ]

    assert found
    assert {each.verdict() for each in found} == {"inconclusive"}


def test_a_flush_to_nobody_whose_post_is_lost_is_noted() -> None:
    found = [
        each
        for each in forgeries(records_of("hidden first"))
        if each.kind.event == "request.posted" and each.kind.how == "removed, renumbered"
    ]

    assert found
    assert {each.verdict() for each in found} == {"inconclusive"}

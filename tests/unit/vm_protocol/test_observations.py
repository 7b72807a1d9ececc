"""The vocabulary: every event has its meaning, and nobody says what it does not list."""

import pytest
from support.simulated import run

from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.effects import observed
from vm_protocol.errors import LocalProtocolError
from vm_protocol.observations import EVENTS, Event
from vm_protocol.scenario import Scenario

RICH = Scenario(vcpus=3, async_pf=1, avic=True, nested=(1,), previous_roots=1, ticker_ms=2)


def test_the_table_covers_every_event_and_explains_it() -> None:
    assert set(EVENTS) == set(Event)
    assert all(meaning.text for meaning in EVENTS.values())


def test_event_names_are_a_noun_a_dot_and_a_verb() -> None:
    assert [event for event in Event if event.count(".") != 1 or event != event.lower()] == []


def test_a_detail_that_the_table_does_not_list_is_our_own_bug() -> None:
    with pytest.raises(LocalProtocolError, match=r"vcpu\.freed.*unknown details.*colour"):
        observed(Event.VCPU_FREED, "vm-1", 0, colour="red")


def test_details_keep_their_order() -> None:
    said = observed(Event.ROOT_PINNED, "vm-1", 0, slot=1, root="r", context=0)

    assert said.details == (("slot", 1), ("root", "r"), ("context", 0))


@pytest.mark.parametrize("name", catalogue_names())
def test_a_run_says_only_what_the_table_lists(name: str) -> None:
    everything = run(catalogue_entry(name).ordering, RICH, workers=2).everything

    unlisted = {
        (str(record.event), detail)
        for record in everything
        for detail in record.details
        if detail not in EVENTS[record.event].details
    }
    assert unlisted == set()

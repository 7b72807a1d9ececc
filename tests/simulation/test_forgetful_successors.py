"""A successor may perform any number of earlier entries again: nothing else is found than without.

Told by the model alone (support/forgetful.py): no schedule of it is played.
"""

import pytest
from support.exploring import ONE_TICK, explored, found_kinds, loop, ordering, schedule
from support.forgetful import Forgetful
from support.mutants import Mutant, mutate

from teardown_lab.explorer import breadth_first
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.strategy import Bounds, Explored
from vm_manager.catalogue import catalogue_names
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.spread, pytest.mark.slow]

ONE_CRASH = Budget(ticks=1, crash=1)


def forgetful(name: Ordering | str, scenario: Scenario, faults: Budget = ONE_CRASH) -> Explored:
    begin = schedule(name, scenario, faults)
    return breadth_first.explore(Forgetful(begin), Bounds(), lambda *_: None)


@pytest.mark.parametrize("name", catalogue_names())
def test_entries_that_are_performed_again_break_nothing(name: str) -> None:
    scenario = Scenario(vcpus=2, nested=(0,))

    every = forgetful(name, scenario)

    assert every.complete
    assert found_kinds(every) == found_kinds(explored(schedule(name, scenario, ONE_TICK)))
    assert every.doubts == {}
    assert every.states > explored(schedule(name, scenario, ONE_CRASH)).states


def test_three_vcpus_in_order_are_as_safe() -> None:
    every = forgetful("unload-in-destroy", Scenario(vcpus=3))

    assert (every.complete, every.paths, every.doubts) == (True, {}, {})


def test_a_guest_that_is_waited_for_is_as_safe() -> None:
    every = forgetful("unload-in-destroy", Scenario(vcpus=2, in_guest=(0, 1)))

    assert (every.complete, every.paths, every.doubts) == (True, {}, {})


def test_a_command_of_an_earlier_entry_needs_its_outcome_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes again after later ones: `Vcpu.finished` has all commands, not only the last."""
    two_parts = ordering(loop("clear_async_pf"), loop("unload_mmu"), loop("free_vcpu"))
    scenario = Scenario(vcpus=1, ticker=False)
    assert forgetful(two_parts, scenario).doubts == {}
    place = "vcpu_worker.vcpu:Vcpu.finish"
    last = "(self.running.message_id, outcome)"
    mutate(monkeypatch, Mutant(place, ((f"(*self.finished, {last})", f"({last},)"),)))

    plain = explored(schedule(two_parts, scenario, Budget(crash=1)))
    every = forgetful(two_parts, scenario)

    assert ("use-after-free", 0) not in found_kinds(plain)
    assert ("use-after-free", 0) in found_kinds(every)

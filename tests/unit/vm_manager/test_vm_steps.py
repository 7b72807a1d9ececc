"""What each VM-level step and the erase do."""

from dataclasses import replace

import pytest
from support.cores import acts, said
from support.manager_bench import requests_in

from vm_manager import roots
from vm_manager.vm import Slot, Teardown, Vm
from vm_manager.vm_steps import VM_STEPS, erase_vcpu, tick_timer
from vm_protocol.effects import CancelTimer, Unbind
from vm_protocol.observations import Event
from vm_protocol.ordering import VM_STEPS as WORDS
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox


def vm_of(scenario: Scenario, array: str = "skip-holes") -> Vm:
    listed, _ = roots.allocate("vm-0", scenario)
    ordering = Ordering.model_validate({"name": "o", "array": array, "steps": ("uninit_mmu",)})
    return Vm(
        name="vm-0",
        incarnation=1,
        scenario=scenario,
        reply_to="client",
        create_id="vm-0.1/create-vm",
        phase="destroying",
        slots=(Slot(worker="w"),) * scenario.vcpus,
        roots=listed,
        teardown=Teardown(ordering, "vm-0.1/destroy-vm", "client"),
    )


def test_the_table_has_every_word_of_the_language() -> None:
    assert tuple(VM_STEPS) == WORDS


def test_stopping_background_workers_frees_the_pit_which_scans_the_ioapic() -> None:
    vm = vm_of(Scenario(vcpus=2))

    after, effects = VM_STEPS["stop_background_workers"](vm)

    assert requests_in(effects) == [("ScanIoapic", 1, (0, 1))]
    assert acts(effects)[0] == CancelTimer(tick_timer(vm))
    assert not after.background


def test_background_workers_are_stopped_once() -> None:
    stopped, _ = VM_STEPS["stop_background_workers"](vm_of(Scenario(vcpus=2)))

    assert VM_STEPS["stop_background_workers"](stopped) == (stopped, ())


@pytest.mark.parametrize(("sharing", "root_count"), [("distinct", 3), ("shared", 1), ("mixed", 2)])
def test_zap_all_posts_one_drop_for_each_pinned_root_and_one_flush(
    sharing: str, root_count: int
) -> None:
    vm = vm_of(Scenario.model_validate({"vcpus": 3, "roots": sharing}))

    after, effects = VM_STEPS["zap_all_roots"](vm)

    kinds = [(kind, recipients) for kind, _, recipients in requests_in(effects)]
    everybody = (0, 1, 2)
    assert kinds == [("DropObsoleteRoots", everybody)] * root_count + [("TlbFlush", everybody)]
    assert all(root.invalid for root in after.roots)
    assert [root.pins for root in after.roots] == [root.pins for root in vm.roots]


def test_zap_all_frees_unpinned_roots_after_its_flush() -> None:
    vm = vm_of(Scenario(vcpus=1))
    unpinned = replace(vm, roots=tuple(replace(root, pins=()) for root in vm.roots))

    after, effects = VM_STEPS["zap_all_roots"](unpinned)

    assert requests_in(effects) == [("TlbFlush", 1, (0,))]
    assert [each["root"] for each in said(effects, Event.ROOT_FREED)] == ["root-0"]
    assert after.roots == ()


def test_a_second_zap_posts_again_but_invalidates_nothing_again() -> None:
    once, _ = VM_STEPS["zap_all_roots"](vm_of(Scenario(vcpus=1)))

    twice, effects = VM_STEPS["zap_all_roots"](once)

    assert [kind for kind, _, _ in requests_in(effects)] == ["DropObsoleteRoots", "TlbFlush"]
    assert said(effects, Event.ROOT_INVALIDATED) == []
    assert twice.roots == once.roots


def test_zap_all_under_plain_tdp_does_nothing_at_all() -> None:
    vm = vm_of(Scenario(vcpus=2, mmu="tdp"))

    assert VM_STEPS["zap_all_roots"](vm) == (vm, ())


def test_zap_all_under_tdp_with_a_nested_vcpu_touches_only_its_shadow_root() -> None:
    vm = vm_of(Scenario(vcpus=2, mmu="tdp", nested=(1,)))

    after, effects = VM_STEPS["zap_all_roots"](vm)

    assert [kind for kind, _, _ in requests_in(effects)] == ["DropObsoleteRoots", "TlbFlush"]
    assert [root.name for root in after.roots if root.invalid] == ["nested-1"]


def test_flush_tlbs_posts_one_flush() -> None:
    _, effects = VM_STEPS["flush_tlbs"](vm_of(Scenario(vcpus=2)))

    assert requests_in(effects) == [("TlbFlush", 1, (0, 1))]


@pytest.mark.parametrize(
    ("step", "state"), [("free_irqchip", "irqchip"), ("vendor_vm_destroy", "vendor")]
)
def test_vm_state_is_freed_and_stays_so(step: str, state: str) -> None:
    after, effects = VM_STEPS[step](vm_of(Scenario()))

    assert after.freed_state == {state}
    assert said(effects) == [{"event": "vm_state.freed", "vcpu": None, "state": state}]


def test_uninit_frees_what_is_pinned() -> None:
    after, effects = VM_STEPS["uninit_mmu"](vm_of(Scenario(vcpus=2)))

    assert after.roots == ()
    assert [each["pins"] for each in said(effects)] == [("0.0.0",), ("1.0.0",)]


def test_an_erase_leaves_the_others_visible() -> None:
    vm = vm_of(Scenario(vcpus=3))

    after, effects = erase_vcpu(vm, 1)

    assert acts(effects) == [Unbind(Mailbox("vm-0", 1))]
    assert said(effects) == [{"event": "vcpu.erased", "vcpu": 1}]
    assert after.visible() == (0, 2)


def test_behind_a_hole_nobody_is_visible_where_the_array_stops_at_holes() -> None:
    vm = vm_of(Scenario(vcpus=4), "stop-at-hole")

    after, effects = erase_vcpu(vm, 1)

    assert acts(effects) == [Unbind(Mailbox("vm-0", vcpu)) for vcpu in (1, 2, 3)]
    assert said(effects) == [
        {"event": "vcpu.erased", "vcpu": 1},
        {"event": "vcpu.hidden", "vcpu": 2, "hole": 1},
        {"event": "vcpu.hidden", "vcpu": 3, "hole": 1},
    ]
    assert after.visible() == (0,)
    assert [slot.present for slot in after.slots] == [True, False, True, True]


def test_a_hidden_vcpu_can_still_be_erased_and_is_not_unbound_again() -> None:
    hidden, _ = erase_vcpu(vm_of(Scenario(vcpus=2), "stop-at-hole"), 0)

    after, effects = erase_vcpu(hidden, 1)

    assert acts(effects) == []
    assert said(effects) == [{"event": "vcpu.erased", "vcpu": 1}]
    assert [slot.present for slot in after.slots] == [False, False]


@pytest.mark.parametrize("array", ["skip-holes", "stop-at-hole"])
def test_a_second_erase_does_nothing(array: str) -> None:
    erased, _ = erase_vcpu(vm_of(Scenario(vcpus=2), array), 0)

    assert erase_vcpu(erased, 0) == (erased, ())

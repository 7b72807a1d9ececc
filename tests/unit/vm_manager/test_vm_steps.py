"""What each VM-level step and the erase do, up to a loop at which the teardown then stands."""

from collections.abc import Iterable

import pytest
from support.cores import acts, said
from support.manager_bench import ManagerBench, destroy, loop, requests_in

from vm_manager.vm import Vm
from vm_manager.vm_steps import VM_STEP_FUNCTIONS
from vm_protocol.effects import CancelTimer, Effect, Publish, Unbind
from vm_protocol.messages import REQUEST_TYPES
from vm_protocol.observations import Event
from vm_protocol.ordering import VM_STEPS, ForEachVcpu
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox

END = loop("free_vcpu")


def after(
    *steps: str | ForEachVcpu, array: str = "skip-holes", **shape: object
) -> tuple[Vm, tuple[Effect, ...]]:
    """Return the VM after these steps, and their effects."""
    bench = ManagerBench.running(Scenario.model_validate({"ticker": False, **shape}))
    effects = bench.command(destroy(*steps, END, array=array))
    return bench.vm, effects


def pins(vm: Vm) -> dict[str, list[str]]:
    return {root.name: [str(pin) for pin in root.pins] for root in vm.roots}


def kinds(effects: Iterable[Effect]) -> list[str]:
    return [kind for kind, _, _ in requests_in(tuple(effects))]


def test_the_table_has_every_word_of_the_language() -> None:
    assert tuple(VM_STEP_FUNCTIONS) == VM_STEPS


# --- requests ------------------------------------------------------------------------------


def test_a_request_is_one_mandatory_publish_under_the_vm_s_key_to_all_that_are_visible() -> None:
    _, effects = after("stop_background_workers", vcpus=3)

    (publish,) = [
        effect
        for effect in effects
        if isinstance(effect, Publish) and isinstance(effect.message, REQUEST_TYPES)
    ]
    assert (publish.exchange, publish.routing_key) == ("vm.requests", "vm-0")
    assert publish.mandatory
    assert said(effects, Event.REQUEST_POSTED) == [
        {
            "event": "request.posted",
            "vcpu": None,
            "kind": "scan-ioapic",
            "by": "pit",
            "generation": 1,
            "recipients": (0, 1, 2),
        }
    ]


def test_generations_count_all_kinds_of_one_vm_together_and_reach_only_the_visible() -> None:
    vm, effects = after("flush_tlbs", loop("erase_vcpu"), "flush_tlbs", vcpus=2)
    holed, posted = after(
        "stop_background_workers", "flush_tlbs", vcpus=2, roots="shared", ticker=True
    )

    assert requests_in(effects) == [("TlbFlush", 1, (0, 1))]
    assert (vm.generation, [slot.routed for slot in vm.slots]) == (1, [1, 1])
    assert requests_in(posted) == [("ScanIoapic", 1, (0, 1)), ("TlbFlush", 2, (0, 1))]
    assert [slot.routed for slot in holed.slots] == [2, 2]


@pytest.mark.parametrize("step", ["flush_tlbs", "stop_background_workers", "zap_all_roots"])
def test_a_request_to_nobody_is_said_but_neither_published_nor_counted(step: str) -> None:
    vm, effects = after(loop("erase_vcpu"), step, vcpus=2)

    posted = said(effects, Event.REQUEST_POSTED)
    assert {(each["generation"], each["recipients"]) for each in posted} == {(0, ())}
    assert kinds(effects) == []
    assert vm.generation == 0


# --- VM steps --------------------------------------------------------------------------------


def test_stopping_background_workers_stops_the_ticker_and_scans_the_ioapic_once() -> None:
    vm, effects = after("stop_background_workers", "stop_background_workers", vcpus=2)

    assert requests_in(effects) == [("ScanIoapic", 1, (0, 1))]
    assert CancelTimer("tick/vm-0") in effects
    assert len(said(effects, Event.BACKGROUND_STOPPED)) == 1
    assert not vm.background


@pytest.mark.parametrize(("sharing", "root_count"), [("distinct", 3), ("shared", 1), ("mixed", 2)])
def test_zap_all_posts_one_drop_for_each_pinned_root_and_one_flush(
    sharing: str, root_count: int
) -> None:
    before, _ = after("free_irqchip", vcpus=3, roots=sharing)

    vm, effects = after("zap_all_roots", vcpus=3, roots=sharing)

    everybody = (0, 1, 2)
    posted = [(kind, recipients) for kind, _, recipients in requests_in(effects)]
    assert posted == [("DropObsoleteRoots", everybody)] * root_count + [("TlbFlush", everybody)]
    assert all(root.invalid for root in vm.roots)
    assert pins(vm) == pins(before)


def test_previous_roots_are_zapped_as_the_current_one_is() -> None:
    _, effects = after("zap_all_roots", vcpus=2, previous_roots=3, roots="shared")

    assert kinds(effects) == ["DropObsoleteRoots"] * 4 + ["TlbFlush"]


def test_a_second_zap_posts_again_but_invalidates_nothing_again() -> None:
    once, first = after("zap_all_roots", vcpus=1)
    twice, both = after("zap_all_roots", "zap_all_roots", vcpus=1)

    assert kinds(both) == ["DropObsoleteRoots", "TlbFlush"] * 2
    assert said(both, Event.ROOT_INVALIDATED) == said(first, Event.ROOT_INVALIDATED)
    assert twice.roots == once.roots


def test_zap_all_under_plain_tdp_posts_nothing() -> None:
    vm, effects = after("zap_all_roots", vcpus=2, mmu="tdp")

    assert said(effects, Event.REQUEST_POSTED, Event.ROOT_INVALIDATED) == []
    assert not any(root.invalid for root in vm.roots)


def test_zap_all_under_tdp_with_a_nested_vcpu_touches_only_its_shadow_root() -> None:
    vm, effects = after("zap_all_roots", vcpus=2, mmu="tdp", nested=(1,))

    assert kinds(effects) == ["DropObsoleteRoots", "TlbFlush"]
    assert [root.name for root in vm.roots if root.invalid] == ["nested-1"]


def test_flush_tlbs_posts_one_flush() -> None:
    _, effects = after("flush_tlbs", vcpus=2)

    assert requests_in(effects) == [("TlbFlush", 1, (0, 1))]


@pytest.mark.parametrize(
    ("step", "state"), [("free_irqchip", "irqchip"), ("vendor_vm_destroy", "vendor")]
)
def test_vm_state_is_freed_and_stays_so(step: str, state: str) -> None:
    vm, effects = after(step, step)

    assert vm.freed_state == {state}
    assert {each["state"] for each in said(effects, Event.VM_STATE_FREED)} == {state}


def test_uninit_frees_what_is_pinned_under_its_holders() -> None:
    vm, effects = after("uninit_mmu", vcpus=2, previous_roots=1, roots="shared")

    assert vm.roots == ()
    assert [(each["root"], each["pins"]) for each in said(effects, Event.ROOT_FREED)] == [
        ("root-all", ("0.0.0", "1.0.0")),
        ("previous0-all", ("0.0.1", "1.0.1")),
    ]


# --- the array -------------------------------------------------------------------------------


def erased(bench: ManagerBench) -> tuple[list[bool], tuple[int, ...]]:
    return [slot.present for slot in bench.vm.slots], bench.vm.visible()


def up_to_first_hole(array: str, order: str = "ascending") -> tuple[ManagerBench, list[Effect]]:
    """Erase the first vCPU of a loop, whose next command then waits."""
    bench = ManagerBench.running(Scenario(vcpus=3, ticker=False))
    teardown = destroy(loop("erase_vcpu", "free_vcpu", order=order), array=array)
    return bench, acts(bench.command(teardown))


def test_an_erase_leaves_the_others_visible() -> None:
    bench, effects = up_to_first_hole("skip-holes")

    assert [each for each in effects if isinstance(each, Unbind)] == [Unbind(Mailbox("vm-0", 0))]
    assert erased(bench) == ([False, True, True], (1, 2))


def test_behind_a_hole_nobody_is_visible_where_the_array_stops_at_holes() -> None:
    bench, effects = up_to_first_hole("stop-at-hole")

    unbound = [each for each in effects if isinstance(each, Unbind)]
    assert unbound == [Unbind(Mailbox("vm-0", vcpu)) for vcpu in (0, 1, 2)]
    assert erased(bench) == ([False, True, True], ())


def test_before_a_hole_all_stay_visible() -> None:
    bench, _ = up_to_first_hole("stop-at-hole", "descending")

    assert erased(bench) == ([True, True, False], (0, 1))


def test_a_hidden_vcpu_can_still_be_erased_and_is_not_unbound_again() -> None:
    _, effects = after(loop("erase_vcpu"), array="stop-at-hole", vcpus=2)

    assert [each for each in effects if isinstance(each, Unbind)] == [
        Unbind(Mailbox("vm-0", 0)),
        Unbind(Mailbox("vm-0", 1)),
    ]
    assert said(effects, Event.VCPU_ERASED, Event.VCPU_HIDDEN) == [
        {"event": "vcpu.erased", "vcpu": 0},
        {"event": "vcpu.hidden", "vcpu": 1, "hole": 0},
        {"event": "vcpu.erased", "vcpu": 1},
    ]


@pytest.mark.parametrize("array", ["skip-holes", "stop-at-hole"])
def test_a_second_erase_does_nothing(array: str) -> None:
    once, first = after(loop("erase_vcpu"), array=array, vcpus=2)
    twice, both = after(loop("erase_vcpu", "erase_vcpu"), array=array, vcpus=2)

    assert twice.slots == once.slots
    assert said(both, Event.VCPU_ERASED) == said(first, Event.VCPU_ERASED)

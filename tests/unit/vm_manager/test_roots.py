"""The table of roots: who pins what, what a release dooms, what is freed by whom."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cores import said
from support.orderings import scenarios

from vm_manager import roots
from vm_manager.roots import Pin, Root
from vm_protocol.observations import Event
from vm_protocol.scenario import Mmu, Scenario, root_contexts

VM = "vm-0"


def root(
    name: str = "r", mmu: Mmu = "shadow", pins: Iterable[Pin] = (), invalid: bool = False
) -> Root:
    return Root(name, mmu, tuple(pins), invalid)


def pinned(scenario: Scenario) -> dict[str, list[str]]:
    listed, _ = roots.allocate(VM, scenario)
    return {each.name: [str(pin) for pin in each.pins] for each in listed}


def test_distinct_roots_are_one_for_each_vcpu_and_slot() -> None:
    assert pinned(Scenario(vcpus=2, previous_roots=1)) == {
        "root-0": ["0.0.0"],
        "previous0-0": ["0.0.1"],
        "root-1": ["1.0.0"],
        "previous0-1": ["1.0.1"],
    }


def test_a_shared_root_is_pinned_once_by_each_vcpu_s_slot() -> None:
    assert pinned(Scenario(vcpus=3, roots="shared", previous_roots=1)) == {
        "root-all": ["0.0.0", "1.0.0", "2.0.0"],
        "previous0-all": ["0.0.1", "1.0.1", "2.0.1"],
    }


def test_mixed_roots_are_shared_by_pairs() -> None:
    assert pinned(Scenario(vcpus=3, roots="mixed")) == {
        "root-pair0": ["0.0.0", "1.0.0"],
        "root-pair1": ["2.0.0"],
    }


def test_only_a_nested_vcpu_under_tdp_has_a_shadow_root_in_its_second_context() -> None:
    listed, _ = roots.allocate(VM, Scenario(vcpus=2, mmu="tdp", nested=(1,)))

    assert [(each.name, each.mmu) for each in listed] == [
        ("root-0", "tdp"),
        ("root-1", "tdp"),
        ("nested-1", "shadow"),
    ]
    assert pinned(Scenario(vcpus=2, nested=(1,))) == {"root-0": ["0.0.0"], "root-1": ["1.0.0"]}


@given(scenario=scenarios())
def test_a_vcpu_pins_exactly_what_its_worker_is_told_that_it_holds(scenario: Scenario) -> None:
    listed, effects = roots.allocate(VM, scenario)

    slots = [
        (name, Pin(vcpu, context, slot))
        for vcpu in range(scenario.vcpus)
        for context, held in enumerate(root_contexts(scenario, vcpu))
        for slot, (name, _) in enumerate(held)
    ]
    assert sorted((each.name, pin) for each in listed for pin in each.pins) == sorted(slots)
    assert len(said(effects, Event.ROOT_ALLOCATED)) == len(listed)
    assert len(said(effects, Event.ROOT_PINNED)) == len(slots)


def test_the_last_pin_of_an_invalid_shadow_root_dooms_it() -> None:
    listed = (root(pins=[Pin(0, 0, 0)], invalid=True), root("other", pins=[Pin(1, 0, 0)]))

    released = roots.release(VM, listed, 0, 0, ("r",))

    assert released.doomed == (root(invalid=True),)
    assert released.roots == listed[1:]
    assert said(released.effects) == [
        {"event": "root.unpinned", "vcpu": 0, "root": "r", "context": 0, "slot": 0}
    ]


@pytest.mark.parametrize(
    ("kept", "after"),
    [
        (root(pins=[Pin(0, 0, 0)]), root()),
        (root(mmu="tdp", pins=[Pin(0, 0, 0)], invalid=True), root(mmu="tdp", invalid=True)),
        (
            root(pins=[Pin(0, 0, 0), Pin(1, 0, 0)], invalid=True),
            root(pins=[Pin(1, 0, 0)], invalid=True),
        ),
        (
            root(pins=[Pin(0, 0, 0), Pin(0, 1, 0)], invalid=True),
            root(pins=[Pin(0, 1, 0)], invalid=True),
        ),
        (root(invalid=True), root(invalid=True)),
        (
            root("s", pins=[Pin(0, 0, 0)], invalid=True),
            root("s", pins=[Pin(0, 0, 0)], invalid=True),
        ),
    ],
    ids=["valid", "tdp", "pinned by others", "pinned by the other context", "unpinned", "unnamed"],
)
def test_a_release_dooms_no_other_root(kept: Root, after: Root) -> None:
    released = roots.release(VM, (kept,), 0, 0, ("r",))

    assert (released.roots, released.doomed) == ((after,), ())


def test_a_release_drops_each_slot_s_pin_on_one_root() -> None:
    both = root(pins=[Pin(0, 0, 0), Pin(0, 0, 2)], invalid=True)

    released = roots.release(VM, (both,), 0, 0, ("r", "r"))

    assert released.doomed == (root(invalid=True),)
    assert [each["slot"] for each in said(released.effects)] == [0, 2]


@given(scenario=scenarios(), data=st.data())
def test_a_repeated_release_finds_no_pins(scenario: Scenario, data: st.DataObject) -> None:
    listed, _ = roots.allocate(VM, scenario)
    vcpu = data.draw(st.integers(0, scenario.vcpus - 1))
    names = tuple(name for name, _ in root_contexts(scenario, vcpu)[0])

    once = roots.release(VM, listed, vcpu, 0, names)
    twice = roots.release(VM, once.roots, vcpu, 0, names)

    assert (twice.roots, twice.doomed, twice.effects) == (once.roots, (), ())


def test_a_zap_frees_every_root_without_pins_of_either_kind() -> None:
    held = root("held", pins=[Pin(0, 0, 0)])

    left, effects = roots.zap_unpinned(VM, (root("a"), held, root("b", "tdp")), "zap-until-empty")

    assert left == (held,)
    assert said(effects) == [
        {"event": "root.freed", "vcpu": None, "root": name, "by": "zap-until-empty", "pins": ()}
        for name in ("a", "b")
    ]


def test_uninit_frees_pinned_roots_under_their_holders_and_unpinned_tdp_roots_only() -> None:
    listed = (
        root("cached"),
        root("held", pins=[Pin(1, 0, 2)]),
        root("tdp", "tdp"),
        root("tdp-held", "tdp", [Pin(0, 0, 0)]),
    )

    left, effects = roots.uninit(VM, listed)

    assert left == (root("cached"),)
    assert [(each["root"], each["pins"]) for each in said(effects)] == [
        ("held", ("1.0.2",)),
        ("tdp", ()),
        ("tdp-held", ("0.0.0",)),
    ]

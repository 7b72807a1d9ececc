"""Orderings as files: what is read, and errors that name place, fault and the valid words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.orderings import orderings

from vm_manager.catalogue import (
    OrderingError,
    catalogue_entry,
    catalogue_names,
    read_ordering,
    read_scenario,
)
from vm_protocol.ordering import ForEachVcpu, Loop, Ordering
from vm_protocol.scenario import Scenario

VM_WORDS = (
    "stop_background_workers, zap_all_roots, flush_tlbs, free_irqchip, vendor_vm_destroy, "
    "uninit_mmu, for_each_vcpu"
)
VCPU_WORDS = (
    "leave_nested, load_vcpu, put_vcpu, clear_async_pf, unload_mmu, zap_all_until_empty, "
    "free_vcpu, erase_vcpu"
)
KEYS = (
    "name, title, kernel, flush_wait, fence, array, steps, expect, show, explain, racy, after, "
    "changes"
)
FIELDS = ", ".join(Scenario.model_fields)


def ordering_error(text: str) -> str:
    with pytest.raises(OrderingError) as caught:
        read_ordering(text, "mine.yaml")
    return str(caught.value)


def with_steps(steps: str) -> str:
    return f"name: mine\nsteps:\n{steps}\n"


def with_key(line: str) -> str:
    return f"name: mine\n{line}\nsteps: [uninit_mmu]\n"


WRONG = {
    "unknown step": (
        with_steps("  - zap_all_roots\n  - uninit_mmus"),
        f"4:5: unknown VM step `uninit_mmus`: did you mean `uninit_mmu`? valid are {VM_WORDS}",
    ),
    "unknown vCPU step": (
        with_steps("  - for_each_vcpu:\n      - free"),
        f"4:9: unknown vCPU step `free`: did you mean `free_vcpu`? valid are {VCPU_WORDS}",
    ),
    "vCPU step outside a loop": (
        with_steps("  - free_vcpu"),
        f"3:5: `free_vcpu` belongs inside for_each_vcpu; here valid: {VM_WORDS}",
    ),
    "VM step inside a loop": (
        with_steps("  - for_each_vcpu: {parallel: 2, steps: [uninit_mmu]}"),
        f"3:42: `uninit_mmu` belongs outside for_each_vcpu; here valid: {VCPU_WORDS}",
    ),
    "loop in a loop": (
        with_steps("  - for_each_vcpu: [{for_each_vcpu: [free_vcpu]}]"),
        f"3:21: a vCPU step is one of {VCPU_WORDS}",
    ),
    "loop without steps": (
        with_steps("  - for_each_vcpu"),
        "3:5: `for_each_vcpu` needs its steps: `for_each_vcpu: [free_vcpu]`",
    ),
    "empty loop": (
        with_steps("  - for_each_vcpu: []"),
        f"3:20: `for_each_vcpu` has no step; valid are {VCPU_WORDS}",
    ),
    "empty loop, spelled out": (
        with_steps("  - for_each_vcpu: {steps: []}"),
        f"3:28: `for_each_vcpu` has no step; valid are {VCPU_WORDS}",
    ),
    "loop of a word": (
        with_steps("  - for_each_vcpu: free_vcpu"),
        "3:20: `for_each_vcpu` is a list of steps, or {order, parallel, steps}",
    ),
    "parallel of zero": (
        with_steps("  - for_each_vcpu: {parallel: 0, steps: [free_vcpu]}"),
        "3:31: `parallel` is 1..1024 or all (it is 0)",
    ),
    "parallel of a word": (
        with_steps("  - for_each_vcpu: {parallel: many, steps: [free_vcpu]}"),
        "3:31: `parallel` is 1..1024 or all (it is 'many')",
    ),
    "order of a loop": (
        with_steps("  - for_each_vcpu: {order: up, steps: [free_vcpu]}"),
        "3:28: `order`: Input should be 'ascending' or 'descending' (it is 'up')",
    ),
    "unknown key of a loop": (
        with_steps("  - for_each_vcpu: {ordr: up, steps: [free_vcpu]}"),
        "3:21: unknown key `ordr`: valid are order, parallel, steps",
    ),
    "loop with a neighbour": (
        with_steps("  - {for_each_vcpu: [free_vcpu], more: 1}"),
        f"3:5: a step is one of {VM_WORDS}",
    ),
    "step that is a number": (with_steps("  - 3"), f"3:5: a step is one of {VM_WORDS}"),
    "steps that are no list": (
        "name: mine\nsteps: uninit_mmu\n",
        f"2:8: `steps` is a list of {VM_WORDS}",
    ),
    "no step": ("name: mine\nsteps: []\n", f"2:8: `steps` is a list of {VM_WORDS}"),
    "no steps": ("name: mine\n", f"1:1: `steps` is a list of {VM_WORDS}"),
    "too many steps": (
        with_steps("  - for_each_vcpu: [free_vcpu]\n" * 130),
        "1:1: 260 steps, loops included; 256 are allowed",
    ),
    "no name": ("steps: [uninit_mmu]\n", "1:1: `name` is missing"),
    "name in another case": (
        "name: Mine_Own\nsteps: [uninit_mmu]\n",
        "1:7: `name` is kebab-case, such as unload-in-destroy (it is 'Mine_Own')",
    ),
    "name of a number": (
        "name: 7\nsteps: [uninit_mmu]\n",
        "1:7: `name`: Input should be a valid string (it is 7)",
    ),
    "unknown key": (with_key("step:\n  - a"), f"2:1: unknown key `step`: valid are {KEYS}"),
    "unknown key of the kernel": (
        with_key("kernel: {versions: v1, commits: 1}"),
        "2:24: unknown key `commits`: valid are versions, commit",
    ),
    "unknown key of an expectation": (
        with_key("expect: [{run: [safe], explore: safe, ever: 1}]"),
        "2:39: unknown key `ever`: valid are when, run, explore",
    ),
    "verdict that is none": (
        with_key("expect: [{run: [fine], explore: safe}]"),
        "2:17: `run`: Input should be 'safe', 'violated' or 'inconclusive' (it is 'fine')",
    ),
    "unknown field in `when`": (
        with_key("expect: [{when: {vcpu: 1}, run: [safe], explore: safe}]"),
        f"2:24: unknown scenario field `vcpu`: valid are {FIELDS}",
    ),
    "unknown field in `show`": (
        with_key("show: {vcpu: 1}"),
        f"2:8: unknown key `vcpu`: valid are {FIELDS}",
    ),
    "vCPU that is not there": (
        with_key("show: {nested: [4]}"),
        "2:16: `nested`: there is no vCPU 4 (0..3)",
    ),
    "fence that is no truth": (
        with_key("fence: 1"),
        "2:8: `fence`: Input should be a valid boolean (it is 1)",
    ),
    "array of another kind": (
        with_key("array: holes"),
        "2:8: `array`: Input should be 'skip-holes' or 'stop-at-hole' (it is 'holes')",
    ),
    "a long value": (with_key(f"array: {'x' * 500}"), "2:8: `array`: "),
    "a list": ("- uninit_mmu\n", "1:1: an ordering is a mapping with `name` and `steps`"),
    "a word": ("hello\n", "1:1: an ordering is a mapping with `name` and `steps`"),
    "duplicate key": ("name: a\nname: b\n", "2:1: 'name' stands here a second time"),
    "no YAML": ("name: [\n", "2:1: not valid YAML: "),
    "nothing": ("", "1:1: the file is empty"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_an_error_names_place_fault_and_the_valid_words(fault: str) -> None:
    text, expected = WRONG[fault]

    error = ordering_error(text)

    assert error.startswith(f"mine.yaml:{expected}")
    assert len(error) < 400


def test_a_bare_list_is_the_default_loop_and_a_spelled_out_one_says_more() -> None:
    entry = read_ordering(
        with_steps(
            "  - for_each_vcpu: [unload_mmu, free_vcpu]\n"
            "  - for_each_vcpu: {order: descending, parallel: all, steps: [erase_vcpu]}"
        ),
        "mine.yaml",
    )

    assert entry.ordering.steps == (
        ForEachVcpu(for_each_vcpu=Loop(steps=("unload_mmu", "free_vcpu"))),
        ForEachVcpu(for_each_vcpu=Loop(order="descending", parallel="all", steps=("erase_vcpu",))),
    )


@given(ordering=orderings(racy=True))
def test_every_ordering_can_be_written_as_a_file_and_read_back(ordering: Ordering) -> None:
    assert read_ordering(ordering.model_dump_json(), "mine.yaml").ordering == ordering


@given(cut=st.integers(0, 1200), text=st.text(max_size=8), name=st.sampled_from(catalogue_names()))
def test_a_damaged_file_is_an_ordering_or_an_error_with_a_place(
    cut: int, text: str, name: str
) -> None:
    whole = catalogue_entry(name).text
    place = (1, 1)
    try:
        read_ordering(whole[:cut] + text + whole[cut:], "mine.yaml")
    except OrderingError as error:
        place = error.place

    assert place >= (1, 1)


@pytest.mark.parametrize("name", catalogue_names())
def test_a_shipped_entry_is_named_as_its_file_and_says_what_it_expects(name: str) -> None:
    entry = catalogue_entry(name)

    assert entry.ordering.name == name
    assert entry.explain
    assert entry.expected(entry.show) is not None
    assert entry.after is None or entry.after in catalogue_names()


def test_an_entry_that_is_not_shipped_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="no-such"):
        catalogue_entry("no-such")


def test_the_first_expectation_that_matches_counts() -> None:
    entry = catalogue_entry("zap-all-per-vcpu")
    one = entry.expected(Scenario(vcpus=1))
    many = entry.expected(Scenario(vcpus=3))

    assert (one and one.run, many and many.run) == (("safe",), ("violated",))


def test_a_scenario_file_is_read_with_its_defaults_and_its_errors_have_places() -> None:
    assert read_scenario("vcpus: 2\nnested: [1]\n", "s.yaml") == Scenario(vcpus=2, nested=(1,))
    with pytest.raises(OrderingError, match=r"^s.yaml:1:8: `vcpus`: .*1024.* \(it is 2000\)$"):
        read_scenario("vcpus: 2000\n", "s.yaml")
    with pytest.raises(OrderingError, match=r"^s.yaml:1:1: a scenario is a mapping"):
        read_scenario("- 4\n", "s.yaml")

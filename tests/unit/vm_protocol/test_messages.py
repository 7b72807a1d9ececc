"""Identities, strictness and bounds of the messages."""

import string
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from support.samples import SAMPLES
from support.strategies import MESSAGE_TYPES, any_message, messages_of

from vm_protocol import limits, messages
from vm_protocol.messages import MESSAGES, REQUEST_KINDS, REQUEST_TYPE_NAMES, Message
from vm_protocol.ordering import ForEachVcpu, Loop, Ordering, VcpuStep, VmStep
from vm_protocol.scenario import Scenario

MESSAGE_ID_BYTES_MAX = 255
"""AMQP's short strings."""


def named_by_id(kind: type[Message]) -> set[str]:
    parts = {name for _, name, _, _ in string.Formatter().parse(kind.id_form) if name}
    return parts - {"scope"} | ({"vm", "incarnation"} if "scope" in parts else set())


def test_no_two_messages_of_the_samples_share_an_id_but_requests_of_one_generation() -> None:
    shared = [
        (one, other)
        for (one, first), (other, second) in combinations(SAMPLES.items(), 2)
        if first.identity() == second.identity()
    ]

    assert shared == list(combinations(REQUEST_TYPE_NAMES, 2))


@given(message=any_message, data=st.data())
def test_a_field_changes_the_id_if_and_only_if_the_id_form_names_it(
    message: Message, data: st.DataObject
) -> None:
    kind = type(message)
    other = data.draw(messages_of(kind))
    named = named_by_id(kind)

    same_place = all(getattr(message, name) == getattr(other, name) for name in named)

    assert (message.identity() == other.identity()) == same_place


@pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=lambda kind: kind.__name__)
def test_the_longest_id_of_every_type_fits_a_short_string(kind: type[Message]) -> None:
    longest = {
        "vm": "v" * limits.NAME_CHARACTERS_MAX,
        "incarnation": limits.COUNT_MAX,
        "vcpu": limits.VCPUS_MAX - 1,
        "step": "9" * 12,
        "position": limits.VCPUS_MAX - 1,
        "attempt": limits.COUNT_MAX,
        "generation": limits.COUNT_MAX,
        "worker": "w" * limits.NAME_CHARACTERS_MAX,
        "command": "c" * 200,
    }
    sample = SAMPLES[kind.__name__]
    fields = {name: value for name, value in longest.items() if name in kind.model_fields}

    message = kind.model_validate({**dict(sample), **fields})

    assert len(message.identity().encode()) <= MESSAGE_ID_BYTES_MAX


@pytest.mark.parametrize("kind", [messages.CreateVm, messages.DestroyVm, messages.RemoveVm])
def test_the_id_of_every_command_fits_the_refusal_of_it(kind: type[Message]) -> None:
    sample = SAMPLES[kind.__name__]
    fields = {"vm": "v" * limits.NAME_CHARACTERS_MAX, "incarnation": limits.COUNT_MAX}
    command = kind.model_validate({**dict(sample), **fields})

    refused = messages.Refused(
        vm=command.vm,
        incarnation=command.incarnation,
        code="vm-not-found",
        command=command.identity(),
    )

    assert refused.identity() == f"{command.identity()}/refused/vm-not-found"


@pytest.mark.parametrize("name", SAMPLES)
def test_every_type_forbids_fields_that_it_does_not_know(name: str) -> None:
    sample = SAMPLES[name]

    with pytest.raises(ValidationError, match="extra_forbidden"):
        type(sample).model_validate({**dict(sample), "more": 1})


@pytest.mark.parametrize("name", SAMPLES)
def test_every_message_is_frozen_and_hashable(name: str) -> None:
    sample = SAMPLES[name]

    assert {sample, sample.model_copy()} == {sample}
    with pytest.raises(ValidationError, match="frozen"):
        setattr(sample, "vm", "other")  # noqa: B010  # mypy refuses a plain assignment already


def test_numbers_in_quotes_are_no_numbers() -> None:
    with pytest.raises(ValidationError, match="int_type"):
        MESSAGES.validate_json('{"type": "CommandStuck", "vm": "a", "vcpu": "1", "step": "0"}')


@pytest.mark.parametrize("name", ["", "-a", "A", "vm_1", "vm.1", "vm 1", "vm\n", "é", "v" * 41])
def test_a_vm_name_that_would_not_fit_a_queue_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        messages.RemoveVm(vm=name)


@pytest.mark.parametrize("step", ["", "1.", ".1", "1.1.1", "\u0663", "1\n", "-1", "1" * 13])
def test_a_step_path_is_one_number_or_two(step: str) -> None:
    with pytest.raises(ValidationError):
        messages.CommandStuck(vm="a", vcpu=0, step=step)


def loop_of(count: int) -> ForEachVcpu:
    step: VcpuStep = "free_vcpu"
    return ForEachVcpu(for_each_vcpu=Loop(steps=(step,) * count))


def test_the_steps_of_all_loops_together_are_bounded() -> None:
    within = (loop_of(100), loop_of(100), loop_of(53))
    beyond: tuple[VmStep | ForEachVcpu, ...] = (*within, "uninit_mmu")

    assert len(Ordering(name="a", steps=within).steps) == 3
    with pytest.raises(ValidationError, match=f"257 steps.*{limits.STEPS_MAX}"):
        Ordering(name="a", steps=beyond)


@pytest.mark.parametrize("field", ["nested", "in_guest"])
def test_a_scenario_names_only_vcpus_that_it_has(field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field}\n.*there is no vCPU 4"):
        Scenario.model_validate({field: (4,)})
    with pytest.raises(ValidationError, match="too_long"):
        Scenario.model_validate({field: (0,) * (limits.VCPUS_MAX + 1)})


NUMBERS = [
    (name, field)
    for name, sample in SAMPLES.items()
    for field in type(sample).model_fields
    if isinstance(getattr(sample, field), int) and not isinstance(getattr(sample, field), bool)
]


@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_every_number_of_every_message_is_bounded_on_both_sides(name: str, field: str) -> None:
    sample = SAMPLES[name]
    for beyond in (-1, limits.COUNT_MAX + 1):
        with pytest.raises(ValidationError):
            type(sample).model_validate({**dict(sample), field: beyond})


LISTS = {
    "workers": ("VmCreated", ("w",) * (limits.VCPUS_MAX + 1)),
    "recipients": ("ScanIoapic", (0,) * (limits.VCPUS_MAX + 1)),
    "wait_for": ("TlbFlush", (0,) * (limits.VCPUS_MAX + 1)),
    "steps": ("DestroyVcpu", ("free_vcpu",) * (limits.STEPS_MAX + 1)),
    "contexts": ("PlaceVcpu", (("r",) * (limits.ROOTS_OF_CONTEXT_MAX + 1), ())),
}


@pytest.mark.parametrize("field", LISTS)
def test_every_list_is_bounded(field: str) -> None:
    name, too_long = LISTS[field]
    sample = SAMPLES[name]

    with pytest.raises(ValidationError, match="too_long"):
        type(sample).model_validate({**dict(sample), field: too_long})


def test_every_request_type_has_a_kind_of_its_own() -> None:
    assert tuple(REQUEST_KINDS) == REQUEST_TYPE_NAMES
    assert len(set(REQUEST_KINDS.values())) == len(REQUEST_KINDS)


@pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=lambda kind: kind.__name__)
def test_the_type_field_is_the_class_name_and_the_docstring_is_its_own(kind: type[Message]) -> None:
    assert kind.model_fields["type"].default == kind.__name__
    assert kind.__doc__
    assert kind.__doc__ != BaseModel.__doc__

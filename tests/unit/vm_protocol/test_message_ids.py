"""Message ids: every message's is taken apart again, and other texts are no ids."""

import pytest
from hypothesis import given
from support.samples import SAMPLES
from support.strategies import any_message

from vm_protocol.message_ids import MessageId, name_in_vm, parse_message_id, scope_of
from vm_protocol.messages import DestroyVcpu, Message, Refused, VcpuStepsDone

NO_IDS = ["", "delivery:7", "vm-0/create-vm", "vm-0.0/create-vm", "vm-0.01/x", "vm-0.1/", ".1/x"]


@given(message=any_message)
def test_the_id_of_every_message_is_taken_apart_and_put_together_again(message: Message) -> None:
    if isinstance(message, Refused):  # begins with the id of what it refuses, whatever that is
        return
    parsed = parse_message_id(message.identity())

    assert parsed is not None
    assert (parsed.vm, parsed.incarnation) == (message.vm, message.incarnation)
    assert (str(parsed), parsed.scope) == (message.identity(), message.scope())
    assert scope_of(message.identity()) == message.scope()


@pytest.mark.parametrize("text", NO_IDS)
def test_a_text_that_is_no_id_has_no_name_and_no_vm(text: str) -> None:
    assert parse_message_id(text) is None
    assert (name_in_vm(text), scope_of(text)) == ("", text)


def test_a_refusal_is_of_the_vm_of_what_it_refuses() -> None:
    parsed = parse_message_id("vm-0.2/create-vm/refused/no-places")

    assert parsed == MessageId("vm-0", 2, "create-vm/refused/no-places")


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "Refused"])
def test_the_fields_of_an_id_are_those_that_it_was_formed_with(name: str) -> None:
    message = SAMPLES[name]

    fields = type(message).fields_of(message.identity())

    assert fields == {each: str(getattr(message, each)) for each in fields}
    assert type(message).id_of(message.scope(), **fields) == message.identity()


def test_the_id_of_another_type_has_no_fields_of_this_one() -> None:
    answer = VcpuStepsDone.id_of("vm-0.1", vcpu=0, step="3.1", outcome="done")

    assert VcpuStepsDone.fields_of(answer) == {"vcpu": "0", "step": "3.1", "outcome": "done"}
    assert DestroyVcpu.fields_of(answer) == {}

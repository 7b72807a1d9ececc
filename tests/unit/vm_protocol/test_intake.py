"""What several readers in one process share of a batch of the journal, and what they do not."""

import pytest

from vm_protocol import codec
from vm_protocol.codec import Packet
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.intake import Delivery, read_journal
from vm_protocol.observations import Event
from vm_protocol.trust import Role, Trust
from vm_protocol.wire import Record


def batch(event: Event, user: str = "manager") -> Delivery:
    fields = {
        "seq": 0,
        "actor": "manager.1",
        "event": event,
        "lamport": 0,
        "at_ns": 0,
        "vm": "vm-7",
    }
    body = codec.encode_records((Record.model_validate(fields),))
    return Delivery("teardown.journal", Packet(body, {"user_id": user}, {}), False, 1)


def test_each_reader_of_a_batch_gets_the_same_records() -> None:
    delivery = batch(Event.VM_FREED)

    first, second = read_journal(delivery), read_journal(delivery)

    assert [record.event for record in first.records] == [Event.VM_FREED]
    assert first == second


def test_a_reader_that_skips_an_event_takes_nothing_from_one_that_does_not() -> None:
    delivery = batch(Event.VM_FREED)

    assert len(read_journal(delivery).records) == 1
    assert read_journal(delivery, frozenset({Event.VM_FREED})).records == ()
    assert len(read_journal(delivery).records) == 1


def test_each_reader_refuses_what_is_another_actors_to_say() -> None:
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as refused:
            read_journal(batch(Event.GUEST_LEFT))
        assert refused.value.reason == RejectReason.FORGED


def test_a_batch_that_was_believed_of_one_user_is_not_believed_of_another() -> None:
    trust = Trust({Role.MANAGER: frozenset({"manager"})})
    read_journal(batch(Event.VM_FREED), trust=trust)

    with pytest.raises(RemoteProtocolError) as refused:
        read_journal(batch(Event.VM_FREED, user="stranger"), trust=trust)

    assert refused.value.reason == RejectReason.FORGED

"""Whatever arrives at a service, each delivery is settled at most once and nothing breaks."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.samples import SAMPLES, sample_envelope
from support.strategies import any_message, broken_packets, envelopes

from vcpu_worker import VcpuWorker
from vm_manager import DeadLetterMonitor, VmManager
from vm_protocol import codec, topology
from vm_protocol.actor import Actor
from vm_protocol.codec import Packet
from vm_protocol.effects import Ack, Received, Reject
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.intake import Delivery, read_dead_letter, read_message
from vm_protocol.observations import Event

QUEUES = [
    "manager.commands",
    "manager.replies",
    "worker.w.commands",
    "worker.w.replies",
    "vcpu.placement",
    "vcpu.vm-0.0.1",
    "teardown.journal",
    "teardown.dead-letters",
]


def actors() -> list[Actor[Any]]:
    return [Actor(VmManager(), 1), Actor(DeadLetterMonitor(), 1), Actor(VcpuWorker("w", 4))]


@settings(max_examples=100)
@given(
    deliveries=st.lists(st.tuples(st.sampled_from(QUEUES), broken_packets()), max_size=5),
)
def test_nonsense_is_rejected_or_skipped_and_never_breaks_a_service(
    deliveries: list[tuple[str, Packet]],
) -> None:
    for actor in actors():
        for number, (queue, packet) in enumerate(deliveries):
            plan = actor.deliver(Delivery(queue, packet, False, number), number)
            settled = [a for a in plan.actions if isinstance(a, Ack | Reject)]
            assert len([a for a in settled if (a.queue, a.message_id) == (queue, plan.key)]) <= 1


@settings(max_examples=100)
@given(data=st.data())
def test_any_valid_messages_in_any_order_on_any_queue_break_no_service(
    data: st.DataObject,
) -> None:
    messages = data.draw(st.lists(any_message, min_size=1, max_size=6))
    for actor in actors():
        for number, message in enumerate(messages):
            envelope = data.draw(envelopes(message))
            queue = data.draw(st.sampled_from(QUEUES))
            packet = codec.encode(message, envelope)
            actor.deliver(Delivery(queue, packet, False, number), number)
            hash(actor.state)


def test_what_is_no_message_is_rejected_with_its_reason() -> None:
    packet = Packet(b"{}", {}, {"x-schema": 1})
    actor = Actor(VcpuWorker("w", 4))

    plan = actor.deliver(Delivery("vcpu.vm-0.2.1", packet, False, 7), 1)

    assert plan.actions == (Reject("vcpu.vm-0.2.1", "delivery:7", RejectReason.UNKNOWN_TYPE),)
    (record,) = plan.records
    assert (record.event, record.vm, record.vcpu) == (Event.MESSAGE_REJECTED, "vm-0", 2)
    assert record.details == {
        "queue": "vcpu.vm-0.2.1",
        "place": "body: union_tag_not_found",
        "reason": "unknown-type",
        "requeue": False,
    }


@pytest.mark.parametrize("queue", ["teardown.journal", "teardown.dead-letters"])
def test_what_cannot_be_dead_lettered_is_said_skipped_and_acknowledged(queue: str) -> None:
    packet = Packet(b"no record", {}, {})

    plan = Actor(DeadLetterMonitor(), 1).deliver(Delivery(queue, packet, False, 7), 1)

    assert plan.actions == (Ack(queue, "delivery:7"),)
    assert [record.event for record in plan.records] == [Event.MESSAGE_SKIPPED]


def test_a_message_becomes_the_input_that_its_envelope_says() -> None:
    message = SAMPLES["DestroyVcpu"]
    packet = codec.encode(message, sample_envelope(message))

    received, envelope = read_message(Delivery("worker.w.commands", packet, True, 1))

    assert envelope == sample_envelope(message)
    assert received == Received(
        "worker.w.commands",
        message,
        message.identity(),
        1,
        "manager.replies",
        True,
        "manager.1",
    )


def test_a_dead_letter_is_told_by_its_newest_death() -> None:
    message = SAMPLES["TlbFlush"]
    packet = codec.encode(message, sample_envelope(message))
    newest = {
        "reason": "rejected",
        "queue": "vcpu.vm-7.3.2",
        "exchange": "vm.requests",
        "routing-keys": ["vm-7"],
        "count": 1,
    }
    oldest = {"reason": "expired", "queue": "other", "count": 9}
    headers = {**packet.headers, "x-death": [newest, oldest]}
    died = Packet(packet.body, packet.properties, headers)

    letter = read_dead_letter(
        Delivery(topology.DEAD_LETTERS_QUEUE.name, died, False, 1), "delivery:1"
    )

    assert (letter.reason, letter.queue) == ("rejected", "vcpu.vm-7.3.2")
    assert (letter.message, letter.message_id, letter.wrong) == (message, message.identity(), None)


@pytest.mark.parametrize(
    "deaths",
    [
        None,
        "junk",
        [],
        ["x"],
        [{}],
        [{"reason": "rejected"}],
        [{"reason": 5, "queue": "q"}],
        [{"reason": "rejected", "queue": ["q"]}],
        [{"reason": "rejected", "queue": b"\xff"}],
        [{"reason": "r" * 256, "queue": "q"}],
        [{"reason": "rejected", "queue": "q" * 256}],
    ],
)
def test_what_the_broker_would_not_write_is_no_death(deaths: object) -> None:
    packet = Packet(b"{}", {}, {"x-death": deaths})

    with pytest.raises(RemoteProtocolError, match="header: x-death"):
        read_dead_letter(Delivery(topology.DEAD_LETTERS_QUEUE.name, packet, False, 1), "letter")


def test_a_dead_letter_with_a_broken_body_says_what_is_wrong_with_it() -> None:
    death = {"reason": "rejected", "queue": "vcpu.vm-7.3.2"}
    packet = Packet(b"\xff", {"message_id": 4}, {"x-schema": 1, "x-death": [death]})

    letter = read_dead_letter(
        Delivery(topology.DEAD_LETTERS_QUEUE.name, packet, False, 1), "delivery:1"
    )

    assert (letter.message, letter.message_id, letter.wrong) == (None, "", "malformed")

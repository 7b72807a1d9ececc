"""Bytes to messages and back; whatever arrives, only RemoteProtocolError is raised."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.samples import SAMPLES, sample_envelope
from support.strategies import any_message, broken_packets, envelopes, packets

from vm_protocol import codec, limits, messages
from vm_protocol.codec import Packet
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.ordering import ForEachVcpu, Kernel, Loop, Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record


def sample_packet(name: str = "DestroyVcpu") -> Packet:
    message = SAMPLES[name]
    return codec.encode(message, sample_envelope(message))


def refusal_of(packet: Packet) -> tuple[RejectReason, str]:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode(packet)
    return caught.value.reason, caught.value.place


def with_body(packet: Packet, **fields: Any) -> Packet:
    body = {**json.loads(packet.body), **fields}
    return replace(packet, body=json.dumps(body).encode())


def with_header(packet: Packet, name: str, value: object) -> Packet:
    return replace(packet, headers={**packet.headers, name: value})


def with_property(packet: Packet, name: str, value: object) -> Packet:
    return replace(packet, properties={**packet.properties, name: value})


@given(message=any_message, data=st.data())
def test_every_message_comes_back_as_it_was_sent(message: Message, data: st.DataObject) -> None:
    envelope = data.draw(envelopes(message))

    assert codec.decode(codec.encode(message, envelope)) == (message, envelope)


@given(packet=packets())
def test_a_body_says_its_type_once_in_the_body_and_once_in_the_properties(packet: Packet) -> None:
    assert packet.properties["type"] == json.loads(packet.body)["type"]
    assert packet.properties["content_type"] == "application/json"
    assert packet.headers[codec.SCHEMA_HEADER] == limits.SCHEMA_VERSION


@settings(max_examples=250)
@given(packet=broken_packets())
def test_whatever_arrives_is_a_message_or_a_refusal_with_a_short_place(packet: Packet) -> None:
    refusal: RemoteProtocolError | None = None
    try:
        message, envelope = codec.decode(packet)
    except RemoteProtocolError as error:
        refusal = error

    if refusal is None:
        assert envelope.message_id == message.identity()
    else:
        assert 0 < len(refusal.place) <= 200
        assert str(refusal).startswith(refusal.reason)


@given(body=st.binary(max_size=500))
def test_bytes_at_random_are_refused(body: bytes) -> None:
    reason, _ = refusal_of(replace(sample_packet(), body=body))

    assert reason in (RejectReason.MALFORMED, RejectReason.UNKNOWN_TYPE)


MALFORMED = RejectReason.MALFORMED

REFUSALS = {
    "unknown type": (
        with_body(sample_packet(), type="DestroyVcpus"),
        (RejectReason.UNKNOWN_TYPE, "body: union_tag_invalid"),
    ),
    "no type": (
        replace(sample_packet(), body=b"{}"),
        (RejectReason.UNKNOWN_TYPE, "body: union_tag_not_found"),
    ),
    "wrong schema": (
        with_header(sample_packet(), "x-schema", 2),
        (RejectReason.WRONG_SCHEMA, "header: x-schema"),
    ),
    "no schema": (
        replace(sample_packet(), headers={}),
        (RejectReason.WRONG_SCHEMA, "header: x-schema"),
    ),
    "too large": (
        replace(sample_packet(), body=b" " * (limits.MESSAGE_BYTES_MAX + 1)),
        (RejectReason.TOO_LARGE, f"body: {limits.MESSAGE_BYTES_MAX + 1} bytes"),
    ),
    "no JSON": (replace(sample_packet(), body=b"\xff"), (MALFORMED, "body: json_invalid")),
    "deep JSON": (
        replace(sample_packet(), body=b"[" * 100_000),
        (MALFORMED, "body: json_invalid"),
    ),
    "no object": (replace(sample_packet(), body=b"[]"), (MALFORMED, "body: dict_type")),
    "more fields": (
        with_body(sample_packet(), more=1),
        (MALFORMED, "body: DestroyVcpu.more"),
    ),
    "vCPU out of bounds": (
        with_body(sample_packet(), vcpu=limits.VCPUS_MAX),
        (MALFORMED, "body: DestroyVcpu.vcpu"),
    ),
    "number without end": (
        with_body(sample_packet(), generation=10**4000),
        (MALFORMED, "body: DestroyVcpu.generation"),
    ),
    "type differs": (
        with_property(sample_packet(), "type", "TlbFlush"),
        (MALFORMED, "property: type"),
    ),
    "type is no text": (with_property(sample_packet(), "type", 3), (MALFORMED, "property: type")),
    "id differs": (
        with_property(sample_packet(), "message_id", "vm-7.2/destroy-vcpu/3/2.2"),
        (MALFORMED, "property: message_id"),
    ),
    "no id": (
        with_property(sample_packet(), "message_id", None),
        (MALFORMED, "envelope: message_id"),
    ),
    "no sender": (with_header(sample_packet(), "x-sender", ""), (MALFORMED, "envelope: sender")),
    "Lamport time before all": (
        with_header(sample_packet(), "x-lamport", -1),
        (MALFORMED, "envelope: lamport"),
    ),
    "epoch is a list": (
        with_header(sample_packet(), "x-epoch", [1]),
        (MALFORMED, "envelope: epoch"),
    ),
    "no trace": (
        with_header(sample_packet(), "traceparent", "00-1-2-3"),
        (MALFORMED, "envelope: traceparent"),
    ),
}


@pytest.mark.parametrize("wrong", REFUSALS)
def test_a_refusal_names_the_reason_and_the_place(wrong: str) -> None:
    packet, expected = REFUSALS[wrong]

    assert refusal_of(packet) == expected


def test_headers_of_others_are_let_through() -> None:
    packet = with_header(sample_packet(), "x-delivery-count", 3)

    assert codec.decode(packet) == codec.decode(sample_packet())


def largest_ordering() -> Ordering:
    loop = Loop(order="descending", parallel=limits.VCPUS_MAX, steps=("zap_all_until_empty",))
    return Ordering(
        name="a" * limits.NAME_CHARACTERS_MAX,
        title="\U0001f4a5" * 200,
        kernel=Kernel(versions="\U0001f4a5" * 100, commit="f" * 40),
        array="stop-at-hole",
        steps=(ForEachVcpu(for_each_vcpu=loop),) * (limits.STEPS_MAX // 2),
    )


EVERYBODY = tuple(range(limits.VCPUS_MAX))
LONGEST_NAME = "v" * limits.NAME_CHARACTERS_MAX
LONGEST_ROOTS = ("\U0001f4a5" * limits.NAME_CHARACTERS_MAX,) * limits.ROOTS_OF_CONTEXT_MAX
LARGEST: list[Message] = [
    messages.DestroyVm(vm=LONGEST_NAME, ordering=largest_ordering()),
    messages.TlbFlush(
        vm=LONGEST_NAME, generation=limits.COUNT_MAX, recipients=EVERYBODY, wait_for=EVERYBODY
    ),
    messages.DropObsoleteRoots(
        vm=LONGEST_NAME, generation=1, recipients=EVERYBODY, root=LONGEST_ROOTS[0]
    ),
    messages.CreateVm(
        vm=LONGEST_NAME,
        scenario=Scenario(vcpus=limits.VCPUS_MAX, nested=EVERYBODY, in_guest=EVERYBODY),
    ),
    messages.VmCreated(vm=LONGEST_NAME, workers=(LONGEST_ROOTS[0],) * limits.VCPUS_MAX),
    messages.DestroyVcpu(
        vm=LONGEST_NAME,
        vcpu=0,
        step="0.0",
        steps=("zap_all_until_empty",) * limits.STEPS_MAX,
        generation=0,
        fence=True,
    ),
    messages.RootsReleased(
        vm=LONGEST_NAME, vcpu=0, step="0", position=0, contexts=(LONGEST_ROOTS, LONGEST_ROOTS)
    ),
]


@pytest.mark.parametrize("message", LARGEST, ids=lambda message: str(message.type))
def test_the_largest_legal_message_of_a_type_fits_the_bound(message: Message) -> None:
    packet = codec.encode(message, sample_envelope(message))

    assert len(packet.body) <= limits.MESSAGE_BYTES_MAX
    assert codec.decode(packet)[0] == message


def test_one_recipient_more_than_a_vm_can_have_is_refused() -> None:
    body = json.loads(codec.encode(LARGEST[1], sample_envelope(LARGEST[1])).body)
    flush = sample_packet("TlbFlush")

    packet = with_body(flush, recipients=[*body["recipients"], 0])

    assert refusal_of(packet) == (MALFORMED, "body: TlbFlush.recipients")


records = st.builds(
    Record,
    seq=st.integers(0, 2**40),
    actor=st.text(max_size=10),
    event=st.sampled_from(Event),
    vm=st.none() | st.text(max_size=10),
    vcpu=st.none() | st.integers(0, 10),
    message_id=st.none() | st.text(max_size=10),
    lamport=st.integers(0, 2**40),
    at_ns=st.integers(0, 2**63 - 1),
    details=st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())),
)


@given(batch=st.lists(records, max_size=5).map(tuple))
def test_a_journal_batch_comes_back_as_it_was_written(batch: tuple[Record, ...]) -> None:
    assert codec.decode_records(codec.encode_records(batch)) == batch


@given(batch=st.lists(records, max_size=5).map(tuple), skip=st.frozensets(st.sampled_from(Event)))
def test_a_reader_gets_every_record_but_those_it_skips(
    batch: tuple[Record, ...], skip: frozenset[Event]
) -> None:
    wanted = tuple(record for record in batch if record.event not in skip)

    assert codec.decode_records(codec.encode_records(batch), skip) == wanted


@pytest.mark.parametrize(
    "line",
    [
        b'{"schema":2,"seq":0,"actor":"a","event":"vm.freed","lamport":0,"at_ns":0}',
        b'{"schema":1,"seq":0,"actor":"a","event":"vm.freed","lamport":0,"at_ns"',
    ],
    ids=["another schema", "cut off"],
)
def test_a_line_that_no_service_writes_is_refused_and_not_skipped(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        codec.decode_records(line, frozenset(Event))


@given(body=st.binary(min_size=1, max_size=200).filter(lambda body: bool(body.splitlines())))
def test_a_journal_batch_of_random_bytes_is_refused_by_its_line(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="record 1"):
        codec.decode_records(body)


def test_a_record_of_another_schema_is_refused() -> None:
    line = b'{"schema":2,"seq":0,"actor":"a","event":"vm.freed","lamport":0,"at_ns":0}'

    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode_records(line)

    assert (caught.value.reason, caught.value.place) == (RejectReason.WRONG_SCHEMA, "record 1")

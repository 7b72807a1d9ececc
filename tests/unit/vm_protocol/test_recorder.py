"""Numbers, Lamport times and traces of what actors record and send."""

import re

import pytest
from support.samples import SAMPLES
from support.simulated import VM, Run, run

from vm_manager.catalogue import catalogue_entry
from vm_protocol.effects import Ack, Publish, Reject, observed
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event
from vm_protocol.recorder import NO_CAUSE, Cause, Recorder, cause_of
from vm_protocol.scenario import Scenario

W3C = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01")
PUBLISH = Publish("commands", "worker.w.commands", SAMPLES["DestroyVcpu"])


@pytest.fixture(scope="module")
def finished() -> Run:
    scenario = Scenario(vcpus=3, async_pf=1, nested=(0,))
    return run(catalogue_entry("unload-in-destroy-wipe-last").ordering, scenario, workers=2)


def test_every_actor_numbers_its_records_without_a_gap(finished: Run) -> None:
    actors = {record.actor for record in finished.everything}
    for actor in actors:
        numbers = [record.seq for record in finished.everything if record.actor == actor]
        assert numbers == list(range(len(numbers)))
    assert {"manager.1", "monitor", "lab", "worker.worker-1"} <= actors


def test_lamport_time_never_goes_back_and_is_past_that_of_the_cause(finished: Run) -> None:
    sent = {r.message_id: r for r in finished.everything if r.event == Event.MESSAGE_SENT}
    latest: dict[str, int] = {}
    for record in finished.everything:
        assert record.lamport >= latest.get(record.actor, 0)
        latest[record.actor] = record.lamport
        if record.event == Event.MESSAGE_RECEIVED:
            assert record.lamport > sent[record.message_id].lamport
        if record.caused_by is not None:
            assert record.lamport > sent[record.caused_by].lamport


def test_every_message_has_a_valid_traceparent_and_a_vm_has_one_trace(finished: Run) -> None:
    traces = [r.traceparent for r in finished.records if r.event == Event.MESSAGE_SENT]

    assert [trace for trace in traces if not W3C.fullmatch(str(trace))] == []
    assert len({str(trace).split("-")[1] for trace in traces}) == 1


def test_different_messages_are_different_spans(finished: Run) -> None:
    spans = {
        (r.message_id, str(r.traceparent).split("-")[2])
        for r in finished.records
        if r.event == Event.MESSAGE_SENT
    }

    assert len({span for _, span in spans}) == len({message_id for message_id, _ in spans})


def test_a_message_carries_its_sender_epoch_cause_and_the_cause_s_trace() -> None:
    recorder = Recorder("manager.3", epoch=3)
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    recorder.witness(41)

    send, record = recorder.send(PUBLISH, 5, Cause("vm-7.2/destroy-vm", trace, 41, "DestroyVm"))

    envelope = send.envelope
    assert send.publish == PUBLISH
    assert (envelope.sender, envelope.epoch, envelope.lamport) == ("manager.3", 3, 43)
    assert envelope.caused_by == record.caused_by == "vm-7.2/destroy-vm"
    assert envelope.traceparent == record.traceparent
    assert envelope.traceparent.split("-")[1] == "a" * 32
    assert (record.seq, record.lamport, record.at_ns) == (0, 43, 5)
    assert (record.vm, record.vcpu, record.message_id) == ("vm-7", 3, PUBLISH.message.identity())
    assert cause_of(envelope, "DestroyVcpu") == Cause(
        envelope.message_id, envelope.traceparent, 43, "DestroyVcpu"
    )


def test_ids_of_a_trace_are_derived_so_that_a_repeat_has_the_same() -> None:
    first, _ = Recorder("lab", 0).send(PUBLISH, 1, NO_CAUSE)
    second, _ = Recorder("lab", 0).send(PUBLISH, 2, NO_CAUSE)

    assert first == second


def test_settling_is_recorded_for_the_vm_and_vcpu_that_the_names_tell() -> None:
    recorder = Recorder("worker.w", 0)
    message_id = "vm-7.2/request/5"
    cause = Cause(message_id, None, 0, "TlbFlush")

    acked = recorder.settled(Ack("vcpu.vm-7.3.2", message_id), 1, cause)
    rejected = recorder.settled(
        Reject("worker.w.commands", message_id, RejectReason.ROOTS_PINNED, requeue=True),
        2,
        NO_CAUSE,
    )

    assert (acked.event, acked.vm, acked.vcpu) == (Event.MESSAGE_ACKED, "vm-7", 3)
    assert acked.details == {"queue": "vcpu.vm-7.3.2", "type": "TlbFlush"}
    assert (rejected.event, rejected.vm, rejected.vcpu) == (Event.MESSAGE_REJECTED, "vm-7", None)
    assert rejected.details == {
        "queue": "worker.w.commands",
        "reason": "roots-pinned",
        "requeue": True,
    }


def test_a_core_s_observation_keeps_its_place() -> None:
    said = observed(Event.STEP_STARTED, VM, 2, "3.0", name="unload_mmu")

    record = Recorder("worker.w", 0).observed(said, 9, Cause("m", None, 4, "DestroyVcpu"))

    assert (record.event, record.vm, record.vcpu, record.step) == (said.event, VM, 2, "3.0")
    assert (record.caused_by, record.details, record.at_ns) == ("m", {"name": "unload_mmu"}, 9)

"""Spans of whole simulated runs: ids that agree with the messages, one tree, true attributes."""

from collections import Counter
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from support.samples import SAMPLES
from support.simulated import Run, TwiceBroker, run

from service_runtime.tracing.otlp import Export
from service_runtime.tracing.spans import Spans
from vm_manager.catalogue import catalogue_entry
from vm_protocol import codec
from vm_protocol.effects import Ack, Publish, Reject
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event
from vm_protocol.recorder import NO_CAUSE, Cause, Recorder, span_id_of
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

LATER_NS = 2**62
SCENARIO = Scenario(vcpus=3, async_pf=1, nested=(0,))


class Made:
    """The spans that records make, in a process of their own."""

    def __init__(self, records: Any = ()) -> None:
        self._exporter = InMemorySpanExporter()
        export = Export("tests", SimpleSpanProcessor(self._exporter))
        self.spans = Spans(export, "amqp://guest@broker.test:5673/%2F", lambda: LATER_NS)
        for record in records:
            self.spans.observe(record)

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return tuple(self._exporter.get_finished_spans())

    def of(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self.all if span.kind is kind]


def span_id(span: ReadableSpan) -> str:
    return format_span_id(span.context.span_id)


def parent_id(span: ReadableSpan) -> str | None:
    return format_span_id(span.parent.span_id) if span.parent else None


def attribute(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


@pytest.fixture(scope="module")
def finished() -> Run:
    return run(catalogue_entry("unload-in-destroy-wipe-last").ordering, SCENARIO, workers=2)


@pytest.fixture(scope="module")
def made(finished: Run) -> Made:
    return Made(finished.everything)


def sent(records: tuple[Record, ...]) -> dict[str | None, Record]:
    return {r.message_id: r for r in records if r.event == Event.MESSAGE_SENT}


def test_a_send_span_has_the_ids_of_its_message_s_traceparent(finished: Run, made: Made) -> None:
    spans = {
        attribute(span, "messaging.message.id"): (
            format_trace_id(span.context.trace_id),
            span_id(span),
        )
        for span in made.of(SpanKind.PRODUCER)
    }

    assert spans == {
        message_id: tuple(str(record.traceparent).split("-")[1:3])
        for message_id, record in sent(finished.everything).items()
    }


def test_a_vm_s_life_is_one_trace_whose_parents_all_exist(made: Made) -> None:
    ids = [span_id(span) for span in made.all]

    assert len({span.context.trace_id for span in made.all}) == 1
    assert len(set(ids)) == len(ids)
    assert {parent_id(span) for span in made.all} - {None} <= set(ids)
    roots = {attribute(span, "teardown.message.type") for span in made.all if not span.parent}
    assert roots == {"CreateVm", "RemoveVm"}  # no message causes these two


def test_every_delivery_is_a_process_span_below_its_send_and_links_to_it(
    finished: Run, made: Made
) -> None:
    received = [r for r in finished.everything if r.event == Event.MESSAGE_RECEIVED]
    spans = [s for s in made.of(SpanKind.CONSUMER) if "dead-letters" not in s.name]

    assert len(spans) == len(received)
    for span in spans:
        sender = span_id_of(attribute(span, "messaging.message.id"))
        assert parent_id(span) == sender
        assert [format_span_id(link.context.span_id) for link in span.links] == [sender]


def test_a_message_sent_by_a_handler_hangs_on_that_handler_s_span(
    finished: Run, made: Made
) -> None:
    spans = {span_id(span): span for span in made.all}
    for span in made.of(SpanKind.PRODUCER):
        record = sent(finished.everything)[attribute(span, "messaging.message.id")]
        if record.caused_by is not None:
            parent = spans[str(parent_id(span))]
            assert parent.kind is SpanKind.CONSUMER
            assert attribute(parent, "messaging.message.id") == record.caused_by
            assert attribute(parent, "teardown.actor") == record.actor


def test_every_settlement_is_a_span_below_its_delivery(finished: Run, made: Made) -> None:
    settled = (Event.MESSAGE_ACKED, Event.MESSAGE_REJECTED)
    records = [r for r in finished.everything if r.event in settled]
    spans = {span_id(span): span for span in made.all}

    assert len(made.of(SpanKind.CLIENT)) == len(records)
    for span in made.of(SpanKind.CLIENT):
        parent = spans[str(parent_id(span))]
        assert parent.kind is SpanKind.CONSUMER
        assert attribute(span, "messaging.operation.type") == "settle"
        for name in ("messaging.message.id", "messaging.destination.name"):
            assert attribute(span, name) == attribute(parent, name)


def test_a_reject_and_its_dead_letter_are_errors_that_say_why(finished: Run, made: Made) -> None:
    rejects = [r for r in finished.everything if r.event == Event.MESSAGE_REJECTED]
    failed = [span for span in made.all if span.status.status_code is StatusCode.ERROR]

    assert Counter((span.name.split()[0], attribute(span, "error.type")) for span in failed) == {
        ("process", "freed"): len(rejects),
        ("reject", "freed"): len(rejects),
        ("process", "use-after-free"): len(rejects),
    }
    letters = [span for span in failed if "dead-letters" in span.name]
    for span in letters:
        sender, freed, allocated = span.links
        assert span_id(span) != sender.context.span_id
        assert [dict(link.attributes or {}) for link in (freed, allocated)] == [
            {"teardown.link": "freed_by"},
            {"teardown.link": "allocated_by"},
        ]


def test_steps_hang_on_their_command(made: Made) -> None:
    spans = {span_id(span): span for span in made.all}
    commands = {
        (span.name, attribute(span, "teardown.vcpu")): attribute(
            spans[str(parent_id(span))], "teardown.message.type"
        )
        for span in made.of(SpanKind.INTERNAL)
    }

    assert commands["zap_all_roots", None] == "DestroyVm"
    assert commands["unload_mmu", 2] == "DestroyVcpu"
    assert commands["erase_vcpu", 2] == "DestroyVm"
    assert len(commands) == 5 + 3 * 4


def test_what_arrives_twice_is_two_spans_with_ids_of_their_own() -> None:
    ordering = catalogue_entry("unload-in-destroy").ordering
    twice = run(ordering, SCENARIO, workers=2, broker=TwiceBroker(("records",)))

    made = Made(twice.everything)

    ids = [span_id(span) for span in made.all]
    assert len(set(ids)) == len(ids)
    assert {parent_id(span) for span in made.all} - {None} <= set(ids)
    processed = Counter(
        attribute(span, "messaging.message.id") for span in made.of(SpanKind.CLIENT)
    )
    assert max(processed.values()) > 1


# --- single messages -------------------------------------------------------------------------


def test_a_message_sent_again_links_to_its_first_sending() -> None:
    recorder = Recorder("manager.1", 1)
    publish = Publish("commands", "worker.w.commands", SAMPLES["DestroyVcpu"])
    records = [recorder.send(publish, at_ns, NO_CAUSE)[1] for at_ns in (1, 2)]

    first, again = Made(records).all

    assert span_id(first) == str(records[0].traceparent).split("-")[2] != span_id(again)
    assert [link.context.span_id for link in again.links] == [first.context.span_id]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_body_size_is_that_on_the_wire(name: str) -> None:
    send, record = Recorder("manager.1", 1).send(
        Publish("replies", "q", SAMPLES[name]), 1, NO_CAUSE
    )

    (span,) = Made([record]).all

    size = len(codec.encode(send.publish.message, send.envelope).body)
    assert attribute(span, "messaging.message.body.size") == size


def test_attributes_are_those_of_the_conventions() -> None:
    publish = Publish("vm.requests", "vm-7", SAMPLES["TlbFlush"])
    _, record = Recorder("manager.1", 1).send(publish, 1_000, NO_CAUSE)

    (span,) = Made([record]).all

    assert (span.name, span.start_time, span.end_time) == ("send vm.requests:{vm}", 1_000, LATER_NS)
    assert dict(span.attributes or {}) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "vm.requests:vm-7",
        "messaging.destination.template": "vm.requests:{vm}",
        "messaging.rabbitmq.destination.routing_key": "vm-7",
        "messaging.message.id": "vm-7.2/request/5",
        "messaging.message.conversation_id": "vm-7.2",
        "messaging.message.body.size": attribute(span, "messaging.message.body.size"),
        "server.address": "broker.test",
        "server.port": 5673,
        "teardown.actor": "manager.1",
        "teardown.vm": "vm-7",
        "teardown.message.type": "TlbFlush",
    }


def test_a_delivery_that_comes_again_unsettled_ends_the_span_of_the_first() -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    recorder = Recorder("worker.w", 0)
    details = {"type": "DestroyVcpu", "queue": "worker.w.commands"}
    cause = Cause("vm-7.2/destroy-vcpu/3/2.1", trace, 1, "DestroyVcpu")
    about = {"vm": "vm-7", "vcpu": 3, "message_id": cause.message_id}
    records = [
        recorder.record(
            Event.MESSAGE_RECEIVED, 1, cause, details=details | {"redelivered": False}, **about
        ),
        recorder.record(
            Event.STEP_STARTED,
            1,
            cause,
            vm="vm-7",
            vcpu=3,
            step="2.1",
            details={"name": "unload_mmu"},
        ),
        recorder.record(
            Event.MESSAGE_RECEIVED, 2, cause, details=details | {"redelivered": True}, **about
        ),
        recorder.settled(Ack("worker.w.commands", str(cause.message_id)), 3, cause),
    ]

    step, lost, ack, done = Made(records).all

    assert (step.name, step.status.description) == ("unload_mmu", "not finished")
    assert attribute(lost, "error.type") == lost.status.description == "delivered-again"
    assert parent_id(ack) == span_id(done)
    assert attribute(done, "teardown.redelivered") is True


def test_what_is_not_settled_in_the_end_is_a_span_all_the_same() -> None:
    unsettled = run(catalogue_entry("unload-in-destroy").ordering, SCENARIO).everything
    first = next(n for n, record in enumerate(unsettled) if record.event == Event.MESSAGE_ACKED)

    made = Made(unsettled[:first])
    made.spans.close()

    held = [span for span in made.all if attribute(span, "error.type") == "not-settled"]
    assert "CreateVm" in {attribute(span, "teardown.message.type") for span in held}
    assert {parent_id(span) for span in made.all} - {None} <= {span_id(span) for span in made.all}


def test_what_is_no_message_makes_no_span() -> None:
    recorder = Recorder("worker.w", 0)
    reject = Reject("worker.w.commands", "delivery:1", RejectReason.MALFORMED)

    made = Made(
        [
            recorder.record(
                Event.MESSAGE_REJECTED,
                1,
                NO_CAUSE,
                details={"queue": reject.queue, "reason": "malformed", "requeue": False},
            )
        ]
    )

    assert made.all == ()

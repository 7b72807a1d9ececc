"""Spans of a real run: services in processes of their own, a collector that gets them by OTLP."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from integration.tools.cli import Place, teardown
from integration.tools.collector import Received, collecting
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas

from service_runtime.tracing.otlp import SCHEMA_URL
from teardown_lab.checker.history import load_history
from teardown_lab.experiment.stack import STOP_SECONDS
from teardown_lab.own_broker.private_node import PrivateNode
from vm_protocol import limits
from vm_protocol.observations import Event
from vm_protocol.wire import Record

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

RUN = ("run", "unload-in-destroy-wipe-last", "--vcpus", "4", "--workers", "2", "--verbose")


@dataclass(frozen=True)
class Traced:
    """One run: its records, the spans that a collector got, the services' log lines."""

    records: list[Record]
    spans: dict[str, Received]
    log: list[dict[str, str]]

    def of(self, kind: str) -> list[Received]:
        """Return the spans of one kind."""
        return [span for span in self.spans.values() if span.kind == kind]

    def messages(self, event: Event) -> list[Record]:
        """Return the records of what happened to messages."""
        return [record for record in self.records if record.event == event]


@pytest.fixture(scope="module")
def traced(lone_node: PrivateNode, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    place = Place(tmp_path_factory.mktemp("traced"))
    history = place.folder / "history.jsonl"
    with collecting() as collector:
        done = teardown(
            place,
            *(*RUN, "--broker", lone_node.url, "--history", str(history)),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        )
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    spans = {span.span_id: span for span in collector.spans}
    assert len(spans) == len(collector.spans), "every span has an id of its own"
    return Traced(list(load_history(history).records), spans, lines)


def test_spans_history_and_logs_have_one_and_the_same_trace_id(traced: Traced) -> None:
    in_spans = {span.trace_id for span in traced.spans.values()}
    in_history = {str(r.traceparent).split("-")[1] for r in traced.records if r.traceparent}
    in_logs = {line["traceparent"].split("-")[1] for line in traced.log if "traceparent" in line}

    assert len(in_spans) == 1
    assert in_spans == in_history == in_logs


def test_all_three_programs_have_exported_before_they_ended(traced: Traced) -> None:
    services = {span.service for span in traced.spans.values()}

    assert services == {"teardown", "vm-manager", "vcpu-worker"}
    assert {span["teardown.actor"].partition(".")[0] for span in traced.spans.values()} == {
        "lab",
        "manager",
        "monitor",
        "worker",
    }


def test_every_message_of_the_history_is_a_send_span_with_its_traceparent_s_id(
    traced: Traced,
) -> None:
    in_history = {
        (record.message_id, str(record.traceparent).split("-")[2])
        for record in traced.messages(Event.MESSAGE_SENT)
    }
    spans = {(span["messaging.message.id"], span.span_id) for span in traced.of("PRODUCER")}

    assert in_history <= spans
    # What comes after the history's end: the VM is removed.
    assert {message_id.partition("/")[2] for message_id, _ in spans - in_history} <= {
        "remove-vm",
        "vm-removed",
        *(f"forget-vcpu/{vcpu}" for vcpu in range(4)),
        *(f"vcpu-forgotten/{vcpu}" for vcpu in range(4)),
    }


def test_every_parent_exists_and_begins_no_later_than_its_child(traced: Traced) -> None:
    for span in traced.spans.values():
        if span.parent_id:
            parent = traced.spans[span.parent_id]
            assert parent.begin_ns <= span.begin_ns <= span.end_ns, span
    roots = {s["teardown.message.type"] for s in traced.spans.values() if not s.parent_id}
    assert roots == {"CreateVm", "RemoveVm"}


def test_every_delivery_of_a_broadcast_hangs_on_its_send(traced: Traced) -> None:
    posted = [r for r in traced.records if r.event == Event.REQUEST_POSTED]
    assert len(posted) > 1

    for record in posted:
        (send,) = [
            s for s in traced.of("PRODUCER") if s["messaging.message.id"] == record.message_id
        ]
        deliveries = [
            span
            for span in traced.of("CONSUMER")
            if span.parent_id == send.span_id
            and span["messaging.destination.name"].startswith("vm.")
        ]
        assert sorted(s["teardown.vcpu"] for s in deliveries) == list(record.details["recipients"])
        assert {span.links for span in deliveries} <= {(send.span_id,)}


def test_every_settlement_of_the_history_is_a_span(traced: Traced) -> None:
    for event, operation in ((Event.MESSAGE_ACKED, "ack"), (Event.MESSAGE_REJECTED, "reject")):
        records = {(r.message_id, r.details["queue"]) for r in traced.messages(event)}
        spans = {
            (span["messaging.message.id"], span["messaging.destination.name"].split(":")[-1])
            for span in traced.of("CLIENT")
            if span["messaging.operation.name"] == operation
        }
        assert records <= spans


def test_attributes_are_right(traced: Traced, lone_node: PrivateNode) -> None:
    operations = {"PRODUCER": {"send"}, "CONSUMER": {"process"}, "CLIENT": {"settle"}}
    for kind, types in operations.items():
        spans = traced.of(kind)
        assert {span["messaging.operation.type"] for span in spans} == types
        assert {span["messaging.system"] for span in spans} == {"rabbitmq"}
        assert {span["server.port"] for span in spans} == {lone_node.port}
        for span in spans:
            operation = span["messaging.operation.name"]
            assert span.name == f"{operation} {span['messaging.destination.template']}"
            exchange, key, *queue = span["messaging.destination.name"].split(":")
            assert key == span["messaging.rabbitmq.destination.routing_key"]
            # Where the queue is named like the key, the conventions have it once.
            assert exchange
            assert key not in queue
            assert len(queue) <= (kind != "PRODUCER")
    mailboxes = {span["messaging.destination.name"].count(":") for span in traced.of("CLIENT")}
    assert mailboxes == {1, 2}
    (create,) = [s for s in traced.of("PRODUCER") if s["teardown.message.type"] == "CreateVm"]
    assert create["messaging.destination.name"] == "commands:manager.commands"
    assert create["messaging.message.body.size"] > 0
    assert create["messaging.message.id"].startswith(create["messaging.message.conversation_id"])


def test_the_attributes_names_are_those_of_the_conventions(traced: Traced) -> None:
    """They have no stable names yet: the SDK's own list says what they are today."""
    known = {
        value
        for module in (messaging_attributes, server_attributes, error_attributes)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    deprecated = {messaging_attributes.MESSAGING_OPERATION}

    used = {name for span in traced.spans.values() for name in span.attributes}

    ours = {name for name in used if name.startswith("teardown.")}
    assert used - ours <= known - deprecated
    assert max(Schemas, key=lambda each: version_of(each.value)).value == SCHEMA_URL


def version_of(schema_url: str) -> tuple[int, ...]:
    return tuple(map(int, schema_url.rpartition("/")[2].split(".")))


def test_dead_letters_are_spans_that_name_the_invariant(traced: Traced) -> None:
    letters = [span for span in traced.of("CONSUMER") if "dead-letters" in span.name]

    assert [span["error.type"] for span in letters] == ["use-after-free"] * 6
    assert all(span.parent_id in traced.spans for span in letters)
    assert all(link in traced.spans for span in letters for link in span.links)


# --- without a collector -----------------------------------------------------------------------


def test_without_the_variables_opentelemetry_is_not_even_imported(
    lone_node: PrivateNode, tmp_path: Path
) -> None:
    """PYTHONPROFILEIMPORTTIME has every process write each module that it imports."""
    place = Place(tmp_path)

    done = teardown(place, *RUN, "--broker", lone_node.url, PYTHONPROFILEIMPORTTIME="1")

    imported = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert done.returncode == 1, done.stderr
    assert {"pika", "vm_manager", "vcpu_worker", "service_runtime.tracing.traced"} <= imported
    assert [name for name in imported if name.startswith(("opentelemetry", "google"))] == []
    assert "service_runtime.tracing.spans" not in imported


def test_a_collector_that_is_away_costs_neither_verdict_nor_an_ordered_end(
    lone_node: PrivateNode, tmp_path: Path
) -> None:
    done = teardown(
        Place(tmp_path),
        *(*RUN, "--broker", lone_node.url),
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
    )

    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert done.returncode == 1, done.stderr
    assert [line for line in lines if line["event"] == "service.stopped"] != []
    failed = [line for line in lines if line["event"] == "tracing.export_failed"]
    assert {line["service"] for line in failed} >= {"vm-manager", "vcpu-worker"}
    assert limits.SHUTDOWN_MS / 1000 < STOP_SECONDS

"""When spans are made: what the standard variables ask for, and nothing else."""

import pytest
from structlog.testing import capture_logs

from service_runtime.tracing.traced import is_asked_for, traced

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    "environment",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_TRACES_EXPORTER": "console, otlp"},
        ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "false"},
    ],
    ids=str,
)
def test_spans_are_made_when_a_standard_variable_asks(environment: dict[str, str]) -> None:
    assert is_asked_for(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "ours"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"},
    ],
    ids=str,
)
def test_no_spans_are_made_otherwise_and_nobody_is_told(environment: dict[str, str]) -> None:
    with capture_logs() as lines:
        assert not is_asked_for(environment)

    assert lines == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
    ],
)
def test_what_cannot_be_exported_is_said_once_and_harms_nobody(variable: str, value: str) -> None:
    with (
        capture_logs() as lines,
        traced("vm-manager", "amqp://127.0.0.1", ENDPOINT | {variable: value}),
    ):
        pass

    assert [line["event"] for line in lines] == ["tracing.unsupported"]
    assert value in lines[0]["why"]
    assert lines[0]["way_out"]

"""A service alone with its broker: waits for it, loses it, and ends when it is told to."""

import signal
import subprocess

import pytest
from integration.tools.amqp import channel_to, delete, existing
from integration.tools.log import Log
from integration.tools.service import service

from service_runtime.run import EXIT_INFRASTRUCTURE, EXIT_USAGE
from teardown_lab.faults.proxy import Proxy
from teardown_lab.own_broker.private_node import PrivateNode
from vm_protocol import topology

pytestmark = pytest.mark.rabbitmq

PATIENCE_S = 60.0
WORKER = {"WORKER_ID": "lonely", "WORKER_CAPACITY": "2"}
COMMANDS = topology.worker_commands("lonely").name
REPLIES = topology.worker_replies("lonely").name


@pytest.fixture(autouse=True)
def clean_up(fresh_node: PrivateNode) -> object:
    yield
    delete(fresh_node.url, [COMMANDS, REPLIES])


def terminate(process: subprocess.Popen[bytes]) -> int:
    """End a service by SIGTERM; return its exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE_S)


@pytest.mark.parametrize("module", ["vm_manager", "vcpu_worker"])
def test_sigterm_ends_an_idle_service_at_once(fresh_node: PrivateNode, module: str) -> None:
    log = Log()
    with service(module, fresh_node.url, log, **WORKER) as process:
        log.wait(event="service.ready")

        code = terminate(process)

    assert code == 0, log.lines
    assert log.count(event="broker.unanswered") == 0, "nothing was to be waited for"
    log.wait(event="service.stopped")


def test_a_service_waits_for_its_broker_with_back_off(proxy: Proxy) -> None:
    log = Log()
    with proxy.refusing(), service("vcpu_worker", proxy.url, log, **WORKER) as process:
        log.wait(4, event="broker.connection_lost")
        proxy.refuses = False
        log.wait(event="service.ready")
        assert terminate(process) == 0
    pauses = [line["retry_ms"] for line in log.lines if line["event"] == "broker.connection_lost"]
    assert pauses[:4] == [50, 100, 200, 400]


@pytest.mark.parametrize("when", ["refused", "silent in the handshake", "silent later"])
def test_sigterm_ends_a_service_whose_broker_does_not_answer(proxy: Proxy, when: str) -> None:
    log = Log()
    if when == "silent in the handshake":
        proxy.fall_silent()
    with service("vcpu_worker", proxy.url, log, **WORKER) as process:
        if when == "silent in the handshake":
            proxy.wait_accepted(1)
        else:
            log.wait(event="service.ready")
        if when == "refused":
            proxy.refuses = True
            proxy.cut()
            log.wait(3, event="broker.connection_lost")
        if when == "silent later":
            proxy.fall_silent()

        code = terminate(process)

    assert code == 0, log.lines


@pytest.mark.parametrize("queue", [COMMANDS, REPLIES])
def test_a_queue_deleted_under_its_consumer_is_declared_again(
    fresh_node: PrivateNode, queue: str
) -> None:
    log = Log()
    with service("vcpu_worker", fresh_node.url, log, **WORKER) as process:
        log.wait(event="service.ready")

        delete(fresh_node.url, [queue])

        log.wait(event="broker.consumer_cancelled", queue=queue)
        log.wait(2, event="broker.connected")
        log.wait(2, event="broker.consuming")
        assert existing(fresh_node.url, [queue]) == [queue]
        assert terminate(process) == 0


def test_a_queue_with_other_arguments_ends_the_service(fresh_node: PrivateNode) -> None:
    with channel_to(fresh_node.url) as channel:
        channel.queue_declare(COMMANDS, durable=True)
    log = Log()
    with service("vcpu_worker", fresh_node.url, log, **WORKER) as process:
        assert process.wait(PATIENCE_S) == EXIT_INFRASTRUCTURE
        log.wait(event="broker.topology_mismatch", level="error")
    said = next(line for line in log.lines if line["event"] == "broker.topology_mismatch")
    assert COMMANDS in said["why"]
    assert "exception" not in said


def test_a_url_that_is_none_is_refused_without_its_password() -> None:
    log = Log()
    with service("vcpu_worker", "http://user:secret@127.0.0.1", log, **WORKER) as process:
        assert process.wait(PATIENCE_S) == EXIT_USAGE
    assert "AMQP_URL" in str(log.lines)
    assert "secret" not in str(log.lines)


def test_log_lines_are_json_and_say_who_and_which_message(fresh_node: PrivateNode) -> None:
    log = Log()
    with (
        service("vcpu_worker", fresh_node.url, log, LOG_LEVEL="debug", **WORKER) as process,
        channel_to(fresh_node.url) as channel,
    ):
        log.wait(event="service.ready")
        channel.basic_publish(topology.REPLIES.name, REPLIES, b"junk")
        log.wait(event="message.rejected")
        assert terminate(process) == 0
    assert not log.count(event="(no JSON)")
    assert {line["service"] for line in log.lines} == {"vcpu-worker"}
    assert log.count(event="message.rejected", actor="worker.lonely", reason="wrong-schema") == 1
    ready = next(line for line in log.lines if line["event"] == "service.ready")
    assert ready["broker"] == f"RabbitMQ {_version(fresh_node)}"


def _version(node: PrivateNode) -> str:
    with channel_to(node.url) as channel:
        impl = channel.connection._impl
        return str(impl.server_properties["version"])

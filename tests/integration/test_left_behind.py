"""What `teardown run` leaves when it is ended, however it is ended, and what cleanup removes."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from integration.tools.amqp import channel_to, existing
from integration.tools.cli import Place, Running, processes_of, running, teardown

from teardown_lab.leftovers.processes import wait_gone
from teardown_lab.own_broker.private_node import PrivateNode
from vm_protocol import topology
from vm_protocol.topology import Mailbox

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

LARGE = ("run", "unload-in-destroy", "--vcpus", "64", "-v")
"""Long enough to be interrupted: its teardown takes about a second."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(params=["url", pytest.param("private-node", marks=pytest.mark.long)])
def broker(request: pytest.FixtureRequest, lone_node: PrivateNode) -> dict[str, str]:
    """A broker that outlives the run, or one that the run starts itself."""
    return {"AMQP_URL": lone_node.url} if request.param == "url" else {}


def begun(run: Running) -> tuple[str, list[str]]:
    """Wait until a teardown is going on; return the run's id and the names of its queues."""
    run.log.wait(event="teardown.started")
    (run_id,) = run.place.run_ids()
    lines = tuple(run.log.lines)
    vm = next(line["vm"] for line in lines if line["event"] == "teardown.started")
    workers = {line["actor"] for line in lines if str(line.get("actor")).startswith("worker.")}
    names = [topology.client_replies(vm).name]
    names += [Mailbox(vm, vcpu).name for vcpu in range(64)]
    names += [f"{worker}.{kind}" for worker in workers for kind in ("commands", "replies")]
    return run_id, names


def left(run_id: str, names: list[str], broker: dict[str, str], place: Place) -> list[object]:
    """Return what is still there of a run."""
    queues = existing(broker["AMQP_URL"], names) if broker else []
    return [*wait_gone(processes_of(run_id), 60), *place.run_ids(), *queues]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_a_signal_in_the_middle_leaves_nothing(
    place: Place, broker: dict[str, str], number: signal.Signals
) -> None:
    with running(place, *LARGE, **broker) as run:
        run_id, names = begun(run)
        assert processes_of(run_id)

        run.process.send_signal(number)

        assert run.process.wait(60) == 128 + number, run.text()
    assert left(run_id, names, broker, place) == []


def test_cleanup_removes_what_a_killed_run_left(place: Place, broker: dict[str, str]) -> None:
    with running(place, *LARGE, **broker) as run:
        run_id, names = begun(run)
        run.process.kill()
        run.process.wait()
    assert place.run_ids() == [run_id]
    if broker:
        assert existing(broker["AMQP_URL"], names)

    cleaned = teardown(place, "cleanup")

    assert cleaned.returncode == 0, cleaned.stderr
    assert run_id in cleaned.stdout
    assert left(run_id, names, broker, place) == []
    assert "nothing was left behind" in teardown(place, "cleanup").stdout


def test_cleanup_does_not_touch_a_living_run(place: Place, lone_node: PrivateNode) -> None:
    with running(place, *LARGE, AMQP_URL=lone_node.url) as run:
        begun(run)

        cleaned = teardown(place, "cleanup")

        assert "nothing was left behind" in cleaned.stdout
        assert run.process.wait(60) == 0, run.text()


def test_a_service_killed_in_the_middle_ends_the_run_with_its_log(
    place: Place, lone_node: PrivateNode
) -> None:
    broker = {"AMQP_URL": lone_node.url}
    with running(place, *LARGE, **broker) as run:
        run_id, names = begun(run)
        ready = {"event": "service.ready", "service": "vm-manager"}
        manager = next(line for line in run.log.lines if ready.items() <= line.items())
        os.kill(manager["pid"], signal.SIGKILL)

        assert run.process.wait(60) == 4, run.text()

    assert "vm-manager ended with -9; the end of its log:" in run.text()
    assert left(run_id, names, broker, place) == []


def test_a_run_out_of_time_with_all_services_answering_proves_nothing(
    place: Place, lone_node: PrivateNode
) -> None:
    arguments = [*LARGE[:-1], "--timeout", "0.4", "--json"]

    ran = teardown(place, *arguments, AMQP_URL=lone_node.url)

    assert ran.returncode == 3, ran.stderr
    assert '"violations": []' in ran.stdout
    assert "the run ran out of time" in ran.stdout
    assert place.run_ids() == []


def test_nobody_at_the_url_is_one_clear_line(place: Place) -> None:
    ran = teardown(place, "run", "unload-in-destroy", "--broker", "amqp://127.0.0.1:1/%2F")

    assert ran.returncode == 4
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("teardown: ")
    assert "amqp://127.0.0.1:1" in line
    assert place.run_ids() == []


@pytest.mark.long
def test_a_broker_that_dies_for_good_ends_the_run(place: Place, amqp_url: str) -> None:
    """Services and client wait for it to come back; the run's own bound holds without a broker."""
    with PrivateNode() as node:
        arguments = [*LARGE, "--timeout", "1"]
        with running(place, *arguments, AMQP_URL=node.url) as run:
            begun(run)
            node.kill()

            assert run.process.wait(90) == 4, run.text()
    assert "the broker does not answer" in run.text()


def judged(place: Place, url: str, *options: str) -> dict[str, Any]:
    """Run a teardown of which every count is known; return its verdict and its counts."""
    ran = teardown(place, "run", "unload-in-destroy-wipe-last", "--json", *options, AMQP_URL=url)
    found = json.loads(ran.stdout)
    return {key: found[key] for key in ("verdict", "notes", "counts")}


def wait_queued(url: str, queue: str, count: int) -> None:
    """Wait until a queue that nobody consumes holds so many messages."""
    deadline = time.monotonic() + 60
    with channel_to(url) as channel:
        while channel.queue_declare(queue, passive=True).method.message_count < count:
            assert time.monotonic() < deadline, f"{queue} does not hold {count} messages"
            time.sleep(0.05)


@pytest.mark.parametrize("cleaned_first", [False, True], ids=["run", "cleanup"])
def test_a_vm_that_a_killed_run_asked_for_does_not_disturb_the_next_run(
    place: Place, own_node: str, cleaned_first: bool
) -> None:
    """It is killed when its CreateVm is queued and no manager has it yet; it asks for 64 vCPUs."""
    undisturbed = judged(place, own_node)
    queue = topology.MANAGER_COMMANDS_QUEUE.name
    with running(place, *LARGE, "--attach", AMQP_URL=own_node) as run:
        wait_queued(own_node, queue, 1)
        run.process.kill()
        run.process.wait()

    if cleaned_first:
        assert "  VM vm-" in teardown(place, "cleanup").stdout

    assert judged(place, own_node, "--timeout", "60") == undisturbed
    assert undisturbed["notes"] == []
    assert place.run_ids() == []
    with channel_to(own_node) as channel:
        assert channel.queue_declare(queue, passive=True).method.message_count == 0

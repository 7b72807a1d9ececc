"""A private RabbitMQ node starts, answers, survives its own death, and leaves nothing behind."""

import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import pika.exceptions
import pytest

from teardown_lab.broker.address import delete_queues, knock, listens, without_password
from teardown_lab.broker.errors import BrokerUnavailable
from teardown_lab.leftovers.clean_up import find_leftovers, remove
from teardown_lab.leftovers.processes import carrying, descendants, identify, is_alive, wait_gone
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.leftovers.run_record import RUN_VARIABLE
from teardown_lab.own_broker.choice import STACK_URL_FILE, provide_broker, running_broker
from teardown_lab.own_broker.node_settings import free_ports
from teardown_lab.own_broker.private_node import PrivateNode, server_script

OWNER = """
from teardown_lab.own_broker.private_node import PrivateNode
node = PrivateNode()
node.start()
print(node.folder, node.port, node.pid, flush=True)
time.sleep(300)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rabbitmq,
    pytest.mark.skipif(
        server_script() is None and not os.environ.get("TEARDOWN_REQUIRE_BROKER"),
        reason="rabbitmq-server is not installed",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def folder_for_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the runs of these tests apart from the user's; a space in the path must not matter."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("a folder")
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("TMPDIR", str(folder))
        yield folder / f"teardown-lab-{os.getuid()}"


@pytest.fixture(scope="module")
def node(folder_for_runs: Path) -> Iterator[PrivateNode]:
    with PrivateNode() as node:
        yield node


def publish(url: str, queue: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        channel.confirm_delivery()
        properties = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", queue, b"kept", properties)


def wait_until_written(node: PrivateNode, queue: str) -> None:
    """Wait until a queue is in Mnesia's files: a declare is answered a little earlier (3.10)."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        files = [each for each in node.folder.rglob("*") if each.suffix in (".LOG", ".DCL", ".DCD")]
        if any(queue.encode() in each.read_bytes() for each in files):
            return
        time.sleep(0.05)
    pytest.fail(f"{queue} is not written down after 60 s")


def count(url: str, queue: str) -> int:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        declared = connection.channel().queue_declare(queue, passive=True)
        return int(declared.method.message_count)


def test_a_node_answers_on_loopback_only(node: PrivateNode) -> None:
    assert knock(node.url).startswith("RabbitMQ ")
    addresses = subprocess.run(
        ["ss", "-Hltnp"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    ours = [line.split()[3] for line in addresses if f"pid={node.pid}," in line]
    assert len(ours) == 2  # AMQP and Erlang's distribution
    assert all(address.startswith("127.0.0.1:") for address in ours)


def test_the_nodes_cookie_is_its_own_and_secret(node: PrivateNode) -> None:
    cookie = node.folder / "home" / ".erlang.cookie"

    assert cookie.stat().st_mode & 0o777 == 0o400
    assert len(cookie.read_text()) >= 20


def test_a_node_works_in_its_own_folder_where_its_core_files_go_with_it(node: PrivateNode) -> None:
    assert Path(f"/proc/{node.pid}/cwd").resolve() == node.folder.resolve()


def test_two_nodes_live_side_by_side_and_the_second_leaves_nothing(
    node: PrivateNode, folder_for_runs: Path
) -> None:
    with PrivateNode(config=["channel_max = 7"]) as second:
        processes = [identify(second.pid), *descendants(second.pid)]
        folder, port = second.folder, second.port
        publish(second.url, "only-there")

        assert second.port != node.port
        with pytest.raises(pika.exceptions.ChannelClosedByBroker):
            count(node.url, "only-there")
        assert len(processes) > 1

    assert [process for process in processes if process and is_alive(process)] == []
    assert not folder.exists()
    assert not listens(port)
    assert carrying(RUN_VARIABLE, folder.parent.name) == []
    assert [path.name for path in folder_for_runs.iterdir()] == [node.folder.parent.name]


def test_a_killed_node_comes_back_on_its_data_and_port(node: PrivateNode) -> None:
    url = node.url
    publish(url, "survivor")
    wait_until_written(node, "survivor")

    node.kill()
    assert not listens(node.port)
    assert not node.is_running
    node.start()

    assert node.url == url
    assert count(url, "survivor") == 1


def test_a_restart_keeps_data_and_port(node: PrivateNode) -> None:
    url = node.url
    publish(url, "kept")

    node.restart()

    assert node.url == url
    assert count(url, "kept") == 1


def test_a_node_that_cannot_start_says_why_and_leaves_nothing(folder_for_runs: Path) -> None:
    before = set(folder_for_runs.iterdir()) if folder_for_runs.exists() else set()
    broken = PrivateNode(config=["no_such_setting = 1"])

    with pytest.raises(BrokerUnavailable) as caught:
        broken.start()

    assert "ended while it started" in str(caught.value)
    assert "no_such_setting" in str(caught.value)
    after = set(folder_for_runs.iterdir()) if folder_for_runs.exists() else set()
    assert before == after
    with pytest.raises(BrokerUnavailable, match="not started"):
        _ = broken.url


@pytest.mark.parametrize(
    ("taken", "is_seen_before"), [("epmd", True), ("amqp", False), ("distribution", False)]
)
def test_a_port_that_is_taken_meanwhile_is_replaced_by_another(
    taken: str, is_seen_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is taken before the node is started or after it: then the node itself fails."""
    if not is_seen_before:
        monkeypatch.setattr(PrivateNode, "_refuse_taken_ports", lambda _: None)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = int(listener.getsockname()[1])
        answers = [dataclasses.replace(free_ports(), **{taken: port}), free_ports()]
        monkeypatch.setattr(
            "teardown_lab.own_broker.private_node.free_ports", lambda: answers.pop(0)
        )

        with PrivateNode() as node:
            assert knock(node.url).startswith("RabbitMQ ")
            assert answers == []


def test_a_node_that_is_too_slow_is_given_up(folder_for_runs: Path) -> None:
    with pytest.raises(BrokerUnavailable, match=r"does not answer after 0 s"):
        PrivateNode(start_seconds_max=0.1).start()


def test_auto_takes_a_private_node_and_takes_it_away_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AMQP_URL", raising=False)

    with RunFolder() as run:
        run_folder = run.path
        with provide_broker("auto", run) as broker:
            assert broker.kind == "private-node"
            assert broker.url is not None
            assert "a private node" in broker.line
            assert knock(broker.url) in broker.line
            run.add_queues(broker.url, ["a-queue"])  # goes with the node: nobody is asked then
        assert carrying(RUN_VARIABLE, run.run_id) == []
        assert [path.name for path in run.path.iterdir()] == ["run.json"]
    assert not run_folder.exists()


def test_a_url_is_used_as_it_is_and_its_password_is_not_told(
    node: PrivateNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMQP_URL", node.url)

    with RunFolder() as run, provide_broker("auto", run) as broker:
        assert (broker.url, broker.kind) == (node.url, "url")
        assert f"at {without_password(node.url)} (AMQP_URL)" in broker.line
        assert "guest:guest" not in broker.line


def test_attaching_finds_the_stack_that_the_set_up_has_prepared(
    node: PrivateNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AMQP_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / STACK_URL_FILE
    file.parent.mkdir(parents=True)
    file.write_text(node.url + "\n", encoding="utf-8")

    found = running_broker("auto")

    assert (found.url, found.kind) == (node.url, "url")
    assert f"({STACK_URL_FILE})" in found.line
    assert "guest:guest" not in found.line


def test_attaching_starts_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AMQP_URL", raising=False)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(BrokerUnavailable, match=r"AMQP_URL, or deploy/secrets/client\.url"):
        running_broker("auto")
    with pytest.raises(BrokerUnavailable, match="nothing runs in a simulation"):
        running_broker("simulated")


def test_a_wrong_password_is_named_as_such(node: PrivateNode) -> None:
    url = node.url.replace("guest:guest", "guest:wrong")

    with (
        RunFolder() as run,
        pytest.raises(BrokerUnavailable, match="refuses the login") as caught,
        provide_broker(url, run),
    ):
        pass

    assert "wrong" not in str(caught.value)


def test_a_virtual_host_that_is_not_there_is_named_as_such(node: PrivateNode) -> None:
    with pytest.raises(BrokerUnavailable, match="refuses the virtual host"):
        knock(node.url.replace("%2F", "nowhere"))


def test_deleted_queues_are_gone_and_absent_ones_do_no_harm(node: PrivateNode) -> None:
    publish(node.url, "one")

    deleted, refused = delete_queues(node.url, ["absent", "one"], ["absent"])

    assert (deleted, refused) == (["absent", "one", "absent"], [])
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        count(node.url, "one")


def test_a_queue_that_the_broker_protects_is_reported_and_the_others_go(node: PrivateNode) -> None:
    publish(node.url, "free")
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        connection.channel().queue_declare("held", exclusive=True)

        deleted, refused = delete_queues(node.url, ["held", "free"])

    assert deleted == ["free"]
    assert refused[0].startswith("queue held: RESOURCE_LOCKED")


def test_a_run_that_ends_deletes_its_queues_on_somebody_elses_broker(node: PrivateNode) -> None:
    publish(node.url, "of-the-run")

    with RunFolder() as run:
        run.add_queues(node.url, ["of-the-run"])

    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        count(node.url, "of-the-run")


def test_the_node_of_a_killed_owner_is_found_and_removed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        output = owner.stdout.readline().decode()
        owner.kill()
    path, port, pid = output.rsplit(maxsplit=2)
    folder = Path(path)
    survivor = identify(int(pid))
    assert survivor is not None
    assert listens(int(port))
    started = carrying(RUN_VARIABLE, folder.parent.name)

    (leftover,) = find_leftovers()
    lines = remove(leftover)

    assert wait_gone([survivor, *started], 60) == []
    assert not listens(int(port))
    assert not folder.parent.exists()
    assert f"process {pid} (rabbitmq-server)" in lines
    assert any(line.endswith("(epmd)") for line in lines)
    assert find_leftovers() == []


def test_runs_of_two_tmpdirs_do_not_end_each_others_processes(tmp_path: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "first"))
        (tmp_path / "first").mkdir()
        with RunFolder() as first:
            child = first.spawn(sleeping, "sleeper")
            patch.setattr(tempfile, "tempdir", str(tmp_path / "second"))
            (tmp_path / "second").mkdir()

            with RunFolder():
                pass

            assert child.poll() is None

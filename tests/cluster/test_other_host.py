"""A worker on another host needs nothing but the URL: here the host is a network namespace."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from integration.tools.log import Log
from integration.tools.service import service, started
from support.needs import NAMESPACES, need, need_server

from teardown_lab.checker.history import load_history
from teardown_lab.experiment.lab import LabOptions, RunOptions, open_lab
from teardown_lab.own_broker.cluster import PrivateCluster
from vm_manager.catalogue import catalogue_entry
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

PORT = 5672
USER, PASSWORD = "worker", "s3cret"


@dataclass(frozen=True)
class OtherHost:
    """A network namespace, joined to ours by one pair of interfaces; `address` is our end."""

    name: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        """Return a command that runs there."""
        return ["ip", "netns", "exec", self.name, *arguments]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def other_host() -> Iterator[OtherHost]:
    """A namespace of its own, on a network (RFC 5737, TEST-NET-2) that no machine has."""
    number = os.getpid() % 63
    name, ours, theirs = f"teardown-{os.getpid()}", f"td{number}a", f"td{number}b"
    first, second = (f"198.51.100.{number * 4 + host}" for host in (1, 2))
    try:
        if shutil.which("ip") is None:
            raise FileNotFoundError("no `ip` (iproute2)")
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or error
        need(None, f"network namespace to be had ({why})", NAMESPACES)
    try:
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        ip("address", "add", f"{first}/30", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-netns", name, "link", "set", "lo", "up")
        ip("-netns", name, "address", "add", f"{second}/30", "dev", theirs)
        ip("-netns", name, "link", "set", theirs, "up")
        yield OtherHost(name, first)
    finally:
        ip("netns", "delete", name)  # the pair goes with it


@pytest.fixture(scope="module")
def broker(other_host: OtherHost) -> Iterator[PrivateCluster]:
    """A node that listens on loopback and on that network, with a user who may come from there."""
    need_server()
    config = [f"listeners.tcp.2 = {other_host.address}:{PORT}"]
    with PrivateCluster(1, config=config) as broker:
        broker.control(broker.nodes[0], "add_user", USER, PASSWORD)
        broker.control(broker.nodes[0], "set_permissions", USER, ".*", ".*", ".*")
        yield broker


def test_a_worker_in_another_namespace_takes_placements_and_tears_down(
    other_host: OtherHost, broker: PrivateCluster, tmp_path: Path
) -> None:
    log, away = Log(), Log()
    url = f"amqp://{USER}:{PASSWORD}@{other_host.address}:{PORT}/%2F"
    worker = other_host.command(sys.executable, "-m", "vcpu_worker")
    options = LabOptions(broker=broker.url, attach=True)
    with (
        service("vm_manager", broker.url, log),
        started(worker, {"PATH": os.environ["PATH"], "AMQP_URL": url}, away),
    ):
        log.wait(event="service.ready")
        away.wait(event="service.ready")
        with open_lab(options, print) as lab:
            ordering = catalogue_entry("unload-in-destroy").ordering
            run = RunOptions(timeout_s=60, history=tmp_path / "history.jsonl")
            judgement = lab.run(ordering, Scenario(vcpus=8), 1, run).judgement

    assert (judgement.verdict, judgement.notes) == ("safe", ())
    assert judgement.counts.unload_flush_requests == 8 * 9 // 2
    records = load_history(tmp_path / "history.jsonl").records
    owners = {each.actor for each in records if each.event == Event.VCPU_CREATED}
    assert owners == {line["actor"] for line in away.lines if line["event"] == "broker.connected"}


@pytest.mark.parametrize("by", ["loopback", "network"])
def test_guest_does_not_reach_the_broker_from_there(
    other_host: OtherHost, broker: PrivateCluster, by: str
) -> None:
    """So the worker above came over the network, as the user that it was given."""
    url = broker.url if by == "loopback" else f"amqp://guest:guest@{other_host.address}:{PORT}/%2F"
    log = Log()
    worker = other_host.command(sys.executable, "-m", "vcpu_worker")
    with started(worker, {"PATH": os.environ["PATH"], "AMQP_URL": url}, log):
        log.wait(2, event="broker.connection_lost")
    assert log.count(event="broker.connected") == 0

"""The command line's contract, on a real broker: one JSON object, exit codes, files."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from integration.tools.amqp import delete, existing
from integration.tools.cli import Place, teardown

from teardown_lab.own_broker.private_node import PrivateNode
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.topology import Mailbox

pytestmark = pytest.mark.rabbitmq

KEYS = {
    "schema",
    "ordering",
    "scenario",
    "broker",
    "verdict",
    "violations",
    "hazards",
    "dead_letters",
    "counts",
    "vacuity",
    "takeovers",
    "lost_hosts",
    "notes",
    "messages",
    "source",
    "seconds",
    "history",
}
COUNTS = {
    "commands",
    "flush_broadcasts",
    "flush_deliveries",
    "flush_acks",
    "unload_flush_requests",
    "dead_letters",
    "unaccounted",
}
OF_VIOLATION = {
    "invariant",
    "vcpu",
    "message_id",
    "explain",
    "used_by",
    "freed_by",
    "allocated_by",
}
WRONG = "unload-in-destroy-wipe-last"
HAZARDOUS = "unload-all-first-wipe-last"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def at(lone_node: PrivateNode) -> dict[str, str]:
    return {"AMQP_URL": lone_node.url}


def the_object(stdout: str) -> dict[str, Any]:
    """Return the one object on stdout; anything more would be no JSON."""
    found: dict[str, Any] = json.loads(stdout)
    return found


def test_json_is_one_object_with_the_contracts_keys(place: Place, at: dict[str, str]) -> None:
    ran = teardown(place, "run", WRONG, "--json", **at)

    said = the_object(ran.stdout)
    assert ran.returncode == 1
    assert set(said) == KEYS
    assert set(said["counts"]) == COUNTS
    assert set(said["seconds"]) == {"create", "teardown"}
    assert all(seconds > 0 for seconds in said["seconds"].values())
    assert set(said["violations"][0]) == OF_VIOLATION
    assert {"hazard", "vcpu"} == set(said["hazards"][0]) if said["hazards"] else True
    assert {"reason", "queue", "vcpu", "invariant"} == set(said["dead_letters"][0])
    assert (said["schema"], said["ordering"], said["source"]) == (1, WRONG, "run")
    assert said["broker"].startswith("RabbitMQ ")
    assert (said["verdict"], len(said["violations"])) == ("violated", 6)
    assert (place.folder / said["history"]).is_file()
    (line,) = ran.stderr.splitlines()
    assert line.startswith("broker: RabbitMQ ")


def test_check_says_of_the_history_what_run_said(place: Place, at: dict[str, str]) -> None:
    ran = the_object(teardown(place, "run", WRONG, "--json", **at).stdout)

    checked = teardown(place, "check", ran["history"], "--json")

    said = the_object(checked.stdout)
    assert checked.returncode == 1
    assert set(said) == KEYS
    assert said["source"] == "history"
    assert {**said, "source": "run"} == ran


def test_files_that_were_asked_for_are_written(place: Place, at: dict[str, str]) -> None:
    ran = teardown(
        place, "run", WRONG, "--history", "mine.jsonl", "--junit", "junit.xml", "--keep", **at
    )

    assert ran.returncode == 1
    assert "use-after-free" in ran.stdout
    first = json.loads((place.folder / "mine.jsonl").read_text().splitlines()[0])
    assert first["event"] == "run.started"
    suite = ElementTree.parse(place.folder / "junit.xml").getroot()  # noqa: S314 - our own file
    assert int(suite.get("failures") or suite[0].get("failures") or 0) > 0


def test_a_users_own_ordering_runs(place: Place, at: dict[str, str]) -> None:
    text = catalogue_entry("unload-in-destroy").text.replace("unload-in-destroy", "my-own", 1)
    (place.folder / "mine.yaml").write_text(text)

    ran = teardown(place, "run", "mine.yaml", "--json", "--vcpus", "3", "--workers", "3", **at)

    assert ran.returncode == 0, ran.stderr
    assert the_object(ran.stdout)["ordering"] == "my-own"
    assert the_object(ran.stdout)["scenario"]["vcpus"] == 3


def test_strict_lets_hazards_fail_the_run(place: Place, at: dict[str, str]) -> None:
    ran = the_object(teardown(place, "run", HAZARDOUS, "--json", **at).stdout)
    assert ran["verdict"] == "safe"
    assert ran["hazards"]

    assert teardown(place, "run", HAZARDOUS, "--strict", **at).returncode == 1
    assert teardown(place, "check", ran["history"], "--strict").returncode == 1
    assert teardown(place, "check", ran["history"]).returncode == 0


def test_an_unknown_ordering_names_the_known_ones(place: Place) -> None:
    ran = teardown(place, "run", "no-such-ordering")

    assert ran.returncode == 2
    assert all(name in ran.stderr for name in catalogue_names())


def test_broken_yaml_is_named_by_file_line_and_column(place: Place) -> None:
    text = "name: broken\ntitle: Broken\nsteps:\n  - free_irqchip\n  - frobnicate\n"
    (place.folder / "broken.yaml").write_text(text)

    ran = teardown(place, "run", "broken.yaml")

    assert ran.returncode == 2
    assert "broken.yaml:5:5" in ran.stderr
    assert "free_irqchip" in ran.stderr.partition("frobnicate")[2]


def test_a_history_that_is_cut_short_is_inconclusive(place: Place, at: dict[str, str]) -> None:
    history = place.folder / "mine.jsonl"
    teardown(place, "run", "unload-in-destroy", "--history", str(history), **at)
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[: len(lines) // 2]))

    assert teardown(place, "check", str(history)).returncode == 3


def test_the_simulated_broker_needs_no_rabbitmq(place: Place) -> None:
    ran = teardown(place, "run", WRONG, "--broker", "simulated", "--json", PATH="/nonexistent")

    assert ran.returncode == 1, ran.stderr
    said = the_object(ran.stdout)
    assert (said["broker"], said["source"]) == ("simulated", "simulated")
    assert len(said["violations"]) == 6


def test_keep_leaves_the_mailboxes_of_the_vm(place: Place, at: dict[str, str]) -> None:
    """A stuck VM is the one to look at: nothing else removes its mailboxes."""
    ran = teardown(
        place, "run", "zap-all-per-vcpu", "--vcpus", "2", "--keep", "--json", "--history", "h", **at
    )
    vm = json.loads((place.folder / "h").read_text().splitlines()[0])["vm"]
    names = [Mailbox(vm, vcpu).name for vcpu in range(2)]
    try:
        assert ran.returncode == 1, ran.stderr
        assert existing(at["AMQP_URL"], names) == names
    finally:
        delete(at["AMQP_URL"], names)

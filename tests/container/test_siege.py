"""The stack in containers under fuzzed records and headers, sent by the user who may do least."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from container.compose import Compose, docker, inspected
from container.test_compose import WIPE_LAST, asked, attached, dead_letters_by_now
from integration.tools.cli import Place
from integration.tools.fuzz import ACKED, SKIPPED
from integration.tools.siege import JOURNAL, Siege
from support.needs import CONTAINERS, need, need_engine
from support.randomness import seeded

from vm_protocol import topology
from vm_protocol.trust import Role, Trust

pytestmark = [pytest.mark.container, pytest.mark.timeout(1800)]

RECORDS = int(os.environ.get("TEARDOWN_FUZZ_RECORDS", "300"))
HEADERS = int(os.environ.get("TEARDOWN_FUZZ_HEADERS", "150"))
CLIENT = "client"
TRUST = Trust({role: frozenset({str(role)}) for role in Role})
MONITORS = 2
USE_AFTER_FREES = 6
"""n(n-1)/2, with 4 vCPUs."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    need_engine()
    need(docker("compose", "version").returncode == 0, "`docker compose`", CONTAINERS)
    made = Compose.prepared(tmp_path_factory.mktemp("compose"))
    try:
        made.up("--build")
        yield made
    finally:
        made.down()


@pytest.fixture
def place(stack: Compose, tmp_path: Path) -> Place:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "secrets").symlink_to(stack.secrets)
    return Place(tmp_path)


@pytest.fixture
def siege(stack: Compose) -> Iterator[Siege]:
    commands = topology.COMMANDS.name
    listed = stack.must("exec", "--no-TTY", "rabbitmq", "rabbitmqctl", "-s", "list_queues", "name")
    workers = [name for name in listed.split() if name.startswith("worker.")]
    keys = [topology.MANAGER_COMMANDS_QUEUE.name, *(n for n in workers if "commands" in n)]
    targets = [(commands, key) for key in keys]
    siege = Siege(stack.url, seeded("siege"), targets, CLIENT, TRUST)
    yield siege
    siege.close()


def total(stack: Compose, query: str) -> int:
    """Return a sum over all services, as Prometheus has it once it has scraped them again."""
    dead_letters_by_now(stack)
    found = asked(stack, query)
    return int(float(found[0]["value"][1])) if found else 0


def restarts(stack: Compose) -> int:
    return sum(int(inspected(each)["RestartCount"]) for each in stack.containers(stopped=True))


def skipped(stack: Compose) -> int:
    return total(stack, "sum(teardown_messages_skipped_total)")


def dead(stack: Compose) -> int:
    return total(stack, "sum(teardown_dead_letters_total)")


def settled(stack: Compose, count: int) -> int:
    """Wait until so many messages are skipped, or no more are."""
    seen = -1
    while (now := skipped(stack)) < count and now != seen:
        seen = now
    return now


def hold_unharmed(stack: Compose, place: Place, lost: int) -> None:
    assert restarts(stack) == 0
    assert total(stack, "sum(teardown_broker_reconnects_total)") == lost
    found = attached(place, WIPE_LAST)
    assert found["verdict"] == "violated"
    assert len(found["violations"]) == len(found["dead_letters"]) == USE_AFTER_FREES


def test_fuzzed_records_restart_nobody(stack: Compose, siege: Siege, place: Place) -> None:
    lost = total(stack, "sum(teardown_broker_reconnects_total)")
    before = skipped(stack)

    siege.send_records(RECORDS)
    wanted = MONITORS * siege.wanted[SKIPPED]
    found = settled(stack, before + wanted) - before

    print(dict(siege.wanted), "refused by the broker:", siege.refused, "found:", found)
    assert found == wanted > MONITORS * RECORDS // 2
    hold_unharmed(stack, place, lost)


def test_fuzzed_headers_lose_no_connection(stack: Compose, siege: Siege, place: Place) -> None:
    """What a header becomes on its way through the newest broker is the broker's to say."""
    lost = total(stack, "sum(teardown_broker_reconnects_total)")
    acks = total(stack, "sum(teardown_acks_total)")
    before, died = skipped(stack), dead(stack)

    siege.send_headers(HEADERS)
    settled(stack, before + siege.wanted[SKIPPED] + MONITORS * siege.wanted[JOURNAL])

    gone = dead(stack) - died
    taken = total(stack, "sum(teardown_acks_total)") - acks
    found = skipped(stack) - before
    print(dict(siege.wanted), "refused:", siege.refused, "found:", gone, taken, found)
    letters, journal = siege.wanted[SKIPPED], siege.wanted[JOURNAL]
    ordinary = sum(siege.wanted.values()) - letters - journal
    assert gone + taken == ordinary
    assert taken >= siege.wanted[ACKED]
    assert letters <= found <= letters + MONITORS * journal
    hold_unharmed(stack, place, lost)

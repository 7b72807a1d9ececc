"""Fuzzed records and headers against a running lab: nobody dies, and the next teardown is right."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.test_poison import elect, peers_queues, services
from integration.tools.fuzz import ACKED, SKIPPED, encode
from integration.tools.scrape import gained, scrape
from integration.tools.siege import JOURNAL, TAKEN, Siege, settle
from integration.tools.teardowns import hold_teardown
from support.needs import need_server
from support.randomness import seeded

from teardown_lab.experiment.lab import Lab, LabOptions, open_lab
from vm_protocol import limits, messages

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(1800), pytest.mark.slow]

RECORDS = int(os.environ.get("TEARDOWN_FUZZ_RECORDS", "300"))
HEADERS = int(os.environ.get("TEARDOWN_FUZZ_HEADERS", "150"))
"""`make test-long` has more."""


@pytest.fixture
def lab(own_node: str) -> Iterator[Lab]:
    need_server()
    with open_lab(LabOptions(broker=own_node, workers=2, vcpus=8), print) as lab:
        elect(lab, encode(messages.RemoveVm(vm="vm-x"), "nobody", limits.MANAGER_EPOCH))
        yield lab


class Counted:
    """The counters of a stack's services since a moment."""

    def __init__(self, lab: Lab) -> None:
        assert lab.stack is not None
        self._urls = lab.stack.metrics_urls
        self._before = scrape(self._urls)

    def since(self, name: str) -> dict[tuple[str, ...], int]:
        return gained(self._before, scrape(self._urls), name)

    def total(self, name: str) -> int:
        return sum(self.since(name).values())


@pytest.fixture
def siege(lab: Lab) -> Iterator[Siege]:
    siege = Siege(lab.provided.url or "", seeded("fuzz-peers"), peers_queues(lab))
    yield siege
    siege.close()


def hold_unharmed(lab: Lab, counted: Counted, history: Path) -> None:
    assert [service.process.poll() for service in services(lab)] == [None] * 3
    assert counted.total("teardown_broker_reconnects_total") == 0
    assert counted.total("teardown_dead_letters_republished_total") == 0
    violated = counted.since("teardown_dead_letters_total")
    assert {invariant for invariant, _, _ in violated} <= {"none"}
    hold_teardown(lab, history)


def test_fuzzed_records_are_read_or_skipped(lab: Lab, siege: Siege, history: Path) -> None:
    counted = Counted(lab)

    siege.send_records(RECORDS)
    wanted = siege.wanted[SKIPPED]
    skipped = settle(lambda: counted.total("teardown_messages_skipped_total"), wanted)

    print(dict(siege.wanted), "refused by the broker:", siege.refused)
    assert skipped == wanted > RECORDS // 2
    assert siege.wanted["read"] > 0
    hold_unharmed(lab, counted, history)


def fates(counted: Counted) -> dict[str, int]:
    """Return how many messages ended which way."""
    ended: dict[Any, int] = {
        SKIPPED: counted.total("teardown_messages_skipped_total"),
        ACKED: counted.total("teardown_acks_total"),
    }
    for (_, _, why), count in counted.since("teardown_dead_letters_total").items():
        ended[f"dead: {why}"] = ended.get(f"dead: {why}", 0) + count
    return {fate: count for fate, count in ended.items() if count}


def test_fuzzed_headers_are_taken_or_malformed(lab: Lab, siege: Siege, history: Path) -> None:
    counted = Counted(lab)

    siege.send_headers(HEADERS)
    uncertain = siege.wanted[JOURNAL]
    ended = sum(siege.wanted.values()) - uncertain
    settle(lambda: sum(fates(counted).values()), ended)

    found = fates(counted)
    print(dict(siege.wanted), "refused by the broker:", siege.refused, "found:", found)
    for fate, count in siege.wanted.items():
        if fate not in (JOURNAL, TAKEN, SKIPPED):
            assert found.get(fate, 0) == count, fate
    skipped = found.get(SKIPPED, 0)
    assert siege.wanted[SKIPPED] <= skipped <= siege.wanted[SKIPPED] + uncertain
    assert ended <= sum(found.values()) <= ended + uncertain
    hold_unharmed(lab, counted, history)

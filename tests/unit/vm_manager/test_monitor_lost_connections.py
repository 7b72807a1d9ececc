"""The monitor when connections are lost: what comes again, and what dies of it."""

import pytest
from support.cores import acts, said
from support.monitor_bench import (
    COMMAND,
    FLUSH,
    LETTERS,
    MAILBOX,
    WORKER,
    MonitorBench,
    arrival,
    letter,
    record,
    reject,
    sending,
    told,
)
from support.samples import SAMPLES

from vm_protocol import limits, messages
from vm_protocol.effects import (
    Ack,
    CancelTimer,
    JournalRead,
    Publish,
    SetTimer,
)
from vm_protocol.observations import Event


def test_a_letter_that_comes_again_is_told_once() -> None:
    """Its Ack was lost with the connection; the classification stands in the journal."""
    bench = MonitorBench(reject(FLUSH, "freed"))
    bench.step(letter(FLUSH))

    again = bench.step(letter(FLUSH, key="delivery:2", redelivered=True))
    told_again = bench.step(JournalRead((arrival("delivery:2"),)))

    assert acts(again) == [SetTimer("letter/delivery:2", limits.MONITOR_HISTORY_MS)]
    assert acts(told_again) == [CancelTimer("letter/delivery:2"), Ack(LETTERS, "delivery:2")]
    assert said(told_again) == []


def test_a_letter_that_another_monitor_has_told_is_not_told_again() -> None:
    bench = MonitorBench(reject(COMMAND, "not-owned", WORKER))
    dead = letter(COMMAND, queue=WORKER, redelivered=True)
    bench.step(dead)

    effects = bench.step(JournalRead((told(dead), arrival())))

    assert said(effects) == []
    assert acts(effects) == [CancelTimer("letter/delivery:1"), Ack(LETTERS, "delivery:1")]


def test_a_letter_that_comes_again_and_was_never_told_is_told() -> None:
    bench = MonitorBench(reject(FLUSH, "freed"))
    bench.step(letter(FLUSH, redelivered=True))

    effects = bench.step(JournalRead((arrival(),)))

    assert [e["invariant"] for e in said(effects)] == ["use-after-free"]


def test_two_letters_of_one_request_and_mailbox_are_one() -> None:
    """The request was published again for want of a confirm, and both copies were rejected."""
    bench = MonitorBench(reject(FLUSH, "freed"), reject(COMMAND, "not-owned", WORKER))

    requests = bench.classes(letter(FLUSH), letter(FLUSH, key="delivery:2"))
    commands = bench.classes(
        letter(COMMAND, queue=WORKER, key="delivery:3"),
        letter(COMMAND, queue=WORKER, key="delivery:4"),
    )

    assert requests == [("use-after-free", "freed")]
    assert commands == [(None, "not-owned")] * 2


def test_a_record_that_is_in_the_journal_twice_is_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MONITOR_REPEATS_MAX", 2)
    flush = FLUSH.model_copy(update={"recipients": (3,)})
    posted = sending(flush)
    acked = record(
        Event.MESSAGE_ACKED, message_id=FLUSH.identity(), vcpu=3, details={"queue": MAILBOX}
    )
    bench = MonitorBench()

    once = said(bench.step(JournalRead((posted, acked))))
    twice = said(bench.step(JournalRead((posted, acked))))
    lag = bench.state.open_requests.lag()
    for _ in range(4):
        bench.read(record(Event.MESSAGE_SENT, message_id="a"))

    assert [each["event"] for each in once] == ["request.completed"]
    assert (twice, lag) == ([], 0)
    assert len(bench.state.repeats.recent) + len(bench.state.repeats.older) <= 4


def test_a_command_at_its_delivery_limit_without_rejects_is_sent_once_more_and_only_once() -> None:
    bench = MonitorBench(sending(COMMAND))

    bench.step(letter(COMMAND, "delivery_limit", WORKER))
    first = bench.step(JournalRead((arrival(),)))
    bench.step(letter(COMMAND, "delivery_limit", WORKER, "delivery:2", sender="monitor.other"))
    second = bench.step(JournalRead((arrival("delivery:2"),)))

    again = Publish("commands", WORKER, COMMAND, mandatory=True, reply_to="manager.replies")
    assert acts(first) == [CancelTimer("letter/delivery:1"), again, Ack(LETTERS, "delivery:1")]
    assert said(first) == [{"event": "dead_letter.republished", "vcpu": 3, "queue": WORKER}]
    told = messages.CommandStuck(
        vm="vm-7", incarnation=2, vcpu=3, step="2.1", why="connections-lost"
    )
    assert acts(second) == [
        CancelTimer("letter/delivery:2"),
        Publish("replies", "manager.replies", told, mandatory=True),
        Ack(LETTERS, "delivery:2"),
    ]
    assert [(e["invariant"], e["why"]) for e in said(second)] == [(None, "connections-lost")]


@pytest.mark.parametrize("name", ["CreateVm", "DestroyVm", "RemoveVm", "PlaceVcpu"])
def test_a_command_that_dies_of_lost_connections_again_is_refused_to_its_sender(name: str) -> None:
    command = SAMPLES[name]
    bench = MonitorBench(sending(command, to=("commands", "queue")))
    bench.step(letter(command, "delivery_limit", "queue"))
    bench.step(JournalRead((arrival(),)))
    bench.step(letter(command, "delivery_limit", "queue", "delivery:2", sender="monitor"))

    effects = bench.step(JournalRead((arrival("delivery:2"),)))

    refused = messages.Refused(
        vm="vm-7", incarnation=2, code="connections-lost", command=command.identity()
    )
    about = command.identity()
    assert acts(effects) == [
        CancelTimer("letter/delivery:2"),
        Publish("replies", "manager.replies", refused, correlation_id=about),
        Ack(LETTERS, "delivery:2"),
    ]

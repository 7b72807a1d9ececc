"""The monitor: which letter means what, when it waits for the journal, what it remembers."""

from itertools import count

import pytest
from support.cores import Stepper, acts, said
from support.samples import SAMPLES

from vm_manager import DeadLetterMonitor, MonitorState
from vm_manager.history_index import HistoryIndex
from vm_protocol import limits, messages, topology
from vm_protocol.effects import (
    Ack,
    CancelTimer,
    Consume,
    DeadLettered,
    JournalRead,
    Publish,
    SetTimer,
    Started,
    TimerFired,
)
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.wire import Record

LETTERS = "teardown.dead-letters"
WORKER = "worker.w.commands"
MAILBOX = "vcpu.vm-7.3.2"
COMMAND = SAMPLES["DestroyVcpu"]
FLUSH = SAMPLES["TlbFlush"]


def letter(
    message: Message | None,
    reason: str = "rejected",
    queue: str = MAILBOX,
    key: str = "delivery:1",
    *,
    wrong: str | None = None,
    sender: str = "manager",
    redelivered: bool = False,
) -> DeadLettered:
    return DeadLettered(
        letter=key,
        reason=reason,
        queue=queue,
        exchange="commands",
        routing_key=WORKER,
        message_id=message.identity() if message else "",
        epoch=1,
        message=message,
        reply_to="manager.1.replies",
        wrong=wrong,
        redelivered=redelivered,
        sender=sender,
    )


NUMBERS = count()


def record(event: Event, actor: str = "worker.w", **fields: object) -> Record:
    known = {"seq": next(NUMBERS), "actor": actor, "event": event, "lamport": 0, "at_ns": 0}
    return Record.model_validate(known | {"vm": "vm-7"} | fields)


def sending(message: Message, caused_by: str | None = None) -> Record:
    return record(Event.MESSAGE_SENT, "manager", message_id=message.identity(), caused_by=caused_by)


def reject(message: Message, reason: str, queue: str = MAILBOX, *, requeue: bool = False) -> Record:
    details = {"queue": queue, "reason": reason, "requeue": requeue}
    return record(Event.MESSAGE_REJECTED, message_id=message.identity(), details=details)


def life(event: Event, caused_by: str) -> Record:
    return record(event, vcpu=3, caused_by=caused_by)


def arrival(key: str = "delivery:1", actor: str = "monitor", **fields: object) -> Record:
    return record(Event.DEAD_LETTER_ARRIVED, actor, details={"letter": key}, **fields)


def told(dead: DeadLettered, actor: str = "monitor.other") -> Record:
    details = {"queue": dead.queue, "reason": dead.reason}
    return record(Event.DEAD_LETTER_CLASSIFIED, actor, message_id=dead.message_id, details=details)


class MonitorBench(Stepper[MonitorState]):
    def __init__(self, *records: Record) -> None:
        super().__init__(DeadLetterMonitor())
        self.read(*records)

    def read(self, *records: Record) -> list[object]:
        return list(self.step(JournalRead(records)))

    def classes(self, *dead: DeadLettered) -> list[tuple[str | None, str]]:
        """Return invariant and reason of letters that are classified at once."""
        effects = [effect for each in dead for effect in self.step(each)]
        return [(each["invariant"], each["why"]) for each in said(effects)]


@pytest.mark.parametrize(("now_s", "begin_s"), [(1_700_000_000, 1_699_998_170), (5, 0)])
def test_the_monitor_reads_the_journal_of_the_longest_teardown_that_may_be_open(
    now_s: int, begin_s: int
) -> None:
    begin_ns = begin_s * 1_000_000_000
    assert MonitorBench().step(Started(now_s * 1_000_000_000)) == (
        Consume(topology.JOURNAL_QUEUE, limits.STREAM_PREFETCH, begin_ns),
        Consume(topology.DEAD_LETTERS_QUEUE, limits.DEAD_LETTERS_PREFETCH),
    )


@pytest.mark.parametrize(
    ("reason", "invariant"),
    [
        (RejectReason.FREED, "use-after-free"),
        (RejectReason.DOUBLE_FREE, "double-free"),
        (RejectReason.VM_STATE_FREED, "vm-state-used-after-free"),
        (RejectReason.FENCE_NOT_REACHED, "stuck"),
        (RejectReason.STALE_EPOCH, None),
        (RejectReason.NOT_OWNED, None),
        (RejectReason.UNEXPECTED, None),
    ],
)
def test_a_recorded_reject_is_classified_by_its_reason(
    reason: RejectReason, invariant: str | None
) -> None:
    bench = MonitorBench(reject(FLUSH, reason))

    effects = bench.step(letter(FLUSH))

    assert acts(effects) == [Ack(LETTERS, "delivery:1")]
    assert [(e["invariant"], e["why"], e["vcpu"]) for e in said(effects)] == [
        (invariant, str(reason), 3)
    ]


def test_a_letter_before_its_record_waits_for_it() -> None:
    bench = MonitorBench()

    waiting = bench.step(letter(FLUSH))
    of_others = bench.read(reject(FLUSH, "freed", queue="vcpu.vm-7.1.2"))
    classified = bench.step(JournalRead((reject(FLUSH, "freed"),)))

    assert acts(waiting) == [SetTimer("delivery:1", limits.MONITOR_HISTORY_MS)]
    assert said(waiting) == [{"event": "dead_letter.arrived", "vcpu": 3, "letter": "delivery:1"}]
    assert of_others == []
    assert acts(classified) == [CancelTimer("delivery:1"), Ack(LETTERS, "delivery:1")]
    assert [e["invariant"] for e in said(classified)] == ["use-after-free"]
    assert bench.state.waiting == ()


def test_a_letter_whose_record_never_comes_is_classified_without_after_its_time() -> None:
    bench = MonitorBench()
    bench.step(letter(FLUSH))

    effects = bench.step(TimerFired("delivery:1"))

    assert acts(effects) == [CancelTimer("delivery:1"), Ack(LETTERS, "delivery:1")]
    assert [(e["invariant"], e["why"]) for e in said(effects)] == [(None, "unrecorded")]
    assert bench.step(TimerFired("delivery:1")) == ()


def test_a_letter_whose_record_is_not_in_the_journal_before_its_arrival_has_none() -> None:
    """However far the monitor is behind: its own record of the arrival comes after all others."""
    bench = MonitorBench()
    bench.step(Started(1000))
    bench.step(letter(FLUSH))

    of_others = bench.read(
        arrival("delivery:2", at_ns=1000),
        arrival(actor="monitor.other", at_ns=1000),
        arrival(at_ns=999),  # an earlier life's
    )
    effects = bench.step(JournalRead((arrival(at_ns=1000),)))

    assert of_others == []
    assert acts(effects) == [CancelTimer("delivery:1"), Ack(LETTERS, "delivery:1")]
    assert [(e["invariant"], e["why"]) for e in said(effects)] == [(None, "unrecorded")]


def test_a_letter_that_comes_again_is_told_once() -> None:
    """Its Ack was lost with the connection; the classification stands in the journal."""
    bench = MonitorBench(reject(FLUSH, "freed"))
    bench.step(letter(FLUSH))

    again = bench.step(letter(FLUSH, key="delivery:2", redelivered=True))
    told_again = bench.step(JournalRead((arrival("delivery:2"),)))

    assert acts(again) == [SetTimer("delivery:2", limits.MONITOR_HISTORY_MS)]
    assert acts(told_again) == [CancelTimer("delivery:2"), Ack(LETTERS, "delivery:2")]
    assert said(told_again) == []


def test_a_letter_that_another_monitor_has_told_is_not_told_again() -> None:
    bench = MonitorBench(reject(COMMAND, "not-owned", WORKER))
    dead = letter(COMMAND, queue=WORKER, redelivered=True)
    bench.step(dead)

    effects = bench.step(JournalRead((told(dead), arrival())))

    assert said(effects) == []
    assert acts(effects) == [CancelTimer("delivery:1"), Ack(LETTERS, "delivery:1")]


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
    details = {"type": "TlbFlush", "body": {"recipients": [3]}}
    posted = record(Event.MESSAGE_SENT, message_id=FLUSH.identity(), details=details)
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


def test_letters_that_wait_for_one_batch_are_classified_in_their_order_of_arrival() -> None:
    bench = MonitorBench()
    mailboxes = [f"vcpu.vm-7.{vcpu}.2" for vcpu in range(12)]
    for number, mailbox in enumerate(mailboxes):
        bench.step(letter(FLUSH, queue=mailbox, key=f"delivery:{number}"))

    effects = bench.step(JournalRead(tuple(reject(FLUSH, "freed", each) for each in mailboxes)))

    assert [each["queue"] for each in said(effects)] == mailboxes


def test_a_malformed_letter_breaks_no_invariant_and_waits_for_nothing() -> None:
    bench = MonitorBench()

    effects = bench.step(letter(None, wrong="wrong-schema"))

    assert acts(effects) == [Ack(LETTERS, "delivery:1")]
    assert [(e["invariant"], e["why"]) for e in said(effects)] == [(None, "wrong-schema")]


@pytest.mark.parametrize("reason", ["expired", "maxlen"])
def test_a_request_that_left_a_mailbox_unread_is_lost_only_to_a_live_vcpu(reason: str) -> None:
    alive = MonitorBench(sending(FLUSH))
    dead = MonitorBench(sending(FLUSH), life(Event.VCPU_FREED, "c"))

    assert alive.classes(letter(FLUSH, reason)) == [("lost-request", reason)]
    assert dead.classes(letter(FLUSH, reason)) == [(None, reason)]


def test_a_vcpu_that_lives_again_under_the_same_name_is_alive() -> None:
    bench = MonitorBench(
        life(Event.VCPU_CREATED, "a"),
        life(Event.VCPU_FREED, "b"),
        life(Event.VCPU_CREATED, "c"),
        sending(FLUSH),
    )

    assert bench.classes(letter(FLUSH, "expired")) == [("lost-request", "expired")]


def test_a_command_at_its_delivery_limit_is_stuck_if_the_worker_recorded_rejects() -> None:
    bench = MonitorBench(reject(COMMAND, "roots-pinned", WORKER, requeue=True))

    effects = bench.step(letter(COMMAND, "delivery_limit", WORKER))

    told = messages.CommandStuck(vm="vm-7", incarnation=2, vcpu=3, step="2.1")
    assert acts(effects) == [
        Publish("replies", "manager.1.replies", told, mandatory=True),
        Ack(LETTERS, "delivery:1"),
    ]
    assert [(e["invariant"], e["why"]) for e in said(effects)] == [("stuck", "roots-pinned")]


def test_a_command_at_its_delivery_limit_without_rejects_is_sent_once_more_and_only_once() -> None:
    bench = MonitorBench()

    bench.step(letter(COMMAND, "delivery_limit", WORKER))
    first = bench.step(JournalRead((arrival(),)))
    bench.step(letter(COMMAND, "delivery_limit", WORKER, "delivery:2", sender="monitor.other"))
    second = bench.step(JournalRead((arrival("delivery:2"),)))

    again = Publish("commands", WORKER, COMMAND, mandatory=True, reply_to="manager.1.replies")
    assert acts(first) == [CancelTimer("delivery:1"), again, Ack(LETTERS, "delivery:1")]
    assert said(first) == [{"event": "dead_letter.republished", "vcpu": 3, "queue": WORKER}]
    assert acts(second) == [CancelTimer("delivery:2"), Ack(LETTERS, "delivery:2")]
    assert [(e["invariant"], e["why"]) for e in said(second)] == [(None, "connections-lost")]


def test_a_letter_is_linked_to_the_chains_that_used_freed_and_allocated() -> None:
    bench = MonitorBench(
        sending(FLUSH, "roots-released"),
        record(Event.MESSAGE_SENT, message_id="roots-released", caused_by="destroy"),
        record(Event.MESSAGE_SENT, message_id="destroy", caused_by=None),
        life(Event.VCPU_CREATED, "place"),
        record(Event.MESSAGE_SENT, message_id="place", caused_by="create"),
        life(Event.VCPU_FREED, "destroy"),
        reject(FLUSH, "freed"),
    )

    (classified,) = said(bench.step(letter(FLUSH)))

    assert classified["used_by"] == (FLUSH.identity(), "roots-released", "destroy")
    assert classified["freed_by"] == ("destroy",)
    assert classified["allocated_by"] == ("place", "create")


def test_a_chain_that_bites_its_tail_ends() -> None:
    bench = MonitorBench(
        record(Event.MESSAGE_SENT, message_id="a", caused_by="b"),
        record(Event.MESSAGE_SENT, message_id="b", caused_by="a"),
    )

    assert bench.state.index.of("vm-7").chain("a") == ("a", "b")


def test_what_the_monitor_itself_records_is_not_read_again() -> None:
    bench = MonitorBench(record(Event.MESSAGE_SENT, "monitor", message_id="a"))

    assert bench.state.index == HistoryIndex()


def test_the_oldest_vm_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MONITOR_VMS_MAX", 2)
    names = ["vm-1", "vm-2", "vm-1", "vm-3"]

    bench = MonitorBench(*(record(Event.MESSAGE_SENT, vm=name, message_id=name) for name in names))

    assert sorted(bench.state.index.vms) == ["vm-2", "vm-3"]


def test_messages_beyond_the_bound_are_linked_to_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MONITOR_MESSAGES_MAX", 2)

    bench = MonitorBench(*(record(Event.MESSAGE_SENT, message_id=str(n)) for n in range(4)))

    assert sorted(bench.state.index.of("vm-7").causes) == ["0", "1"]

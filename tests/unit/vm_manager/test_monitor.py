"""The monitor: which letter means what, when it waits for the journal, what it remembers."""

import pytest
from support.cores import acts, said
from support.monitor_bench import (
    COMMAND,
    FLUSH,
    LETTERS,
    WORKER,
    MonitorBench,
    arrival,
    letter,
    life,
    record,
    reject,
    sending,
)

from vm_manager.history_index import HistoryIndex
from vm_protocol import limits, messages, topology
from vm_protocol.effects import (
    Ack,
    CancelTimer,
    Consume,
    JournalRead,
    Publish,
    SetTimer,
    Started,
    TimerFired,
)
from vm_protocol.errors import LocalProtocolError, RejectReason
from vm_protocol.observations import Event


@pytest.mark.parametrize(("now_s", "begin_s"), [(1_700_000_000, 1_699_997_600), (5, 0)])
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
        (RejectReason.FENCE_NOT_REACHED, None),
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

    assert acts(waiting) == [SetTimer("letter/delivery:1", limits.MONITOR_HISTORY_MS)]
    assert said(waiting) == [{"event": "dead_letter.arrived", "vcpu": 3, "letter": "delivery:1"}]
    assert of_others == []
    assert acts(classified) == [CancelTimer("letter/delivery:1"), Ack(LETTERS, "delivery:1")]
    assert [e["invariant"] for e in said(classified)] == ["use-after-free"]
    assert bench.state.waiting == ()


def test_a_letter_whose_record_never_comes_is_classified_without_after_its_time() -> None:
    bench = MonitorBench()
    bench.step(letter(FLUSH))

    effects = bench.step(TimerFired("letter/delivery:1"))

    assert acts(effects) == [CancelTimer("letter/delivery:1"), Ack(LETTERS, "delivery:1")]
    assert [(e["invariant"], e["why"]) for e in said(effects)] == [(None, "unrecorded")]
    assert bench.step(TimerFired("letter/delivery:1")) == ()
    with pytest.raises(LocalProtocolError, match="a monitor sets no such timer"):
        bench.step(TimerFired("tick/vm-0"))


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
    assert acts(effects) == [CancelTimer("letter/delivery:1"), Ack(LETTERS, "delivery:1")]
    assert [(e["invariant"], e["why"]) for e in said(effects)] == [(None, "unrecorded")]


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
def test_a_request_that_left_a_mailbox_unread_breaks_nothing(reason: str) -> None:
    """Its worker was slow, or gone; what was posted to a freed vCPU the checker knows."""
    alive = MonitorBench(sending(FLUSH))
    dead = MonitorBench(sending(FLUSH), life(Event.VCPU_FREED, "c"))

    assert alive.classes(letter(FLUSH, reason)) == [(None, reason)]
    assert dead.classes(letter(FLUSH, reason)) == [(None, reason)]


def test_a_vcpu_that_lives_again_under_the_same_name_was_freed_by_nobody() -> None:
    bench = MonitorBench(
        life(Event.VCPU_CREATED, "a"),
        life(Event.VCPU_FREED, "b"),
        life(Event.VCPU_CREATED, "c"),
        sending(FLUSH),
    )

    (told,) = said(bench.step(letter(FLUSH, "expired")))
    assert (told["freed_by"], told["allocated_by"]) == ((), ("c",))


def test_a_command_at_its_delivery_limit_is_stuck_if_the_worker_recorded_rejects() -> None:
    bench = MonitorBench(sending(COMMAND), reject(COMMAND, "roots-pinned", WORKER, requeue=True))

    effects = bench.step(letter(COMMAND, "delivery_limit", WORKER))

    told = messages.CommandStuck(vm="vm-7", incarnation=2, vcpu=3, step="2.1")
    assert acts(effects) == [
        Publish("replies", "manager.replies", told, mandatory=True),
        Ack(LETTERS, "delivery:1"),
    ]
    assert [(e["invariant"], e["why"]) for e in said(effects)] == [("stuck", "roots-pinned")]


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

    bench = MonitorBench(
        *(record(Event.MESSAGE_SENT, "manager.1", vm=name, message_id=name) for name in names)
    )

    assert sorted(bench.state.index.vms) == ["vm-2", "vm-3"]


def test_messages_beyond_the_bound_are_linked_to_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MONITOR_MESSAGES_MAX", 2)

    bench = MonitorBench(*(record(Event.MESSAGE_SENT, message_id=str(n)) for n in range(4)))

    assert sorted(bench.state.index.of("vm-7").causes) == ["0", "1"]


@pytest.mark.parametrize("both_first", [True, False])
def test_a_stale_copy_of_a_request_hides_no_use_after_free(both_first: bool) -> None:
    """A manager out of office and its successor may send requests of one id."""
    bench = MonitorBench(arrival(FLUSH))
    records = [reject(FLUSH, RejectReason.STALE_EPOCH), reject(FLUSH, RejectReason.FREED)]
    found = []
    if both_first:
        bench.step(JournalRead(tuple(records)))
    for each in records:
        if not both_first:
            bench.step(JournalRead((each,)))
        found += [told["invariant"] for told in said(bench.step(letter(FLUSH)))]

    assert found == (["use-after-free"] if both_first else [None, "use-after-free"])

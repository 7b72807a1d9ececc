"""The managers' log: what is written comes back, whatever a peer has put into a message."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from support.manager_bench import create

from vm_manager.manager import VmManager
from vm_protocol import codec, limits, progress
from vm_protocol.actor import Actor
from vm_protocol.codec import HEADERS, PROPERTIES, SCHEMA_HEADER, Packet
from vm_protocol.effects import MailboxGone, Publish, Returned, Started, TimerFired, TookOver
from vm_protocol.intake import Delivery
from vm_protocol.progress import Delivered, Elected, Happened, LogEntry, read_log_message
from vm_protocol.recorder import NO_CAUSE, Cause, Recorder
from vm_protocol.recovery import LogBroken, Recovery
from vm_protocol.topology import COMMANDS, MANAGER_COMMANDS_QUEUE, Mailbox

QUEUE = MANAGER_COMMANDS_QUEUE.name
ODD: dict[str, Any] = {
    "a decimal": Decimal(1), "a float": 1.0, "a time": datetime(2026, 1, 1, tzinfo=UTC),
    "bytes": b"1", "a list": [1], "a table": {"a": 1}, "true": True, "one": 1, "zero": 0,
    "less": -1, "much": 2**60, "text": "x", "long text": "x" * 300, "empty": "",
}  # fmt: skip
BODIES = {"empty": b"", "no text": b"\xff\xfe", "too long": b"x" * (limits.MESSAGE_BYTES_MAX + 1)}


def packet(**changed: Any) -> Packet:
    publish = Publish(COMMANDS.name, QUEUE, create(), reply_to="client.vm-0.replies")
    send, _ = Recorder("lab", 0).send(publish, 1, NO_CAUSE)
    made = codec.encode(send.publish.message, send.envelope)
    headers = {name: changed.get(name, value) for name, value in made.headers.items()}
    headers |= {name: value for name, value in changed.items() if name in HEADERS.values()}
    properties = {name: changed.get(name, value) for name, value in made.properties.items()}
    return Packet(changed.get("body", made.body), properties, headers, changed.get("unreadable"))


def through_the_log(arrival: progress.Arrival) -> progress.Arrival:
    entry = LogEntry(
        epoch=1, number=1, seq=0, lamport=0, performed=(0, 0), alive_from=0,
        inputs=(progress.logged(arrival),),
    )  # fmt: skip
    read = read_log_message(entry.model_dump_json().encode())
    assert isinstance(read, LogEntry)
    return progress.arrival(read.inputs[0])


def handled(arrival: progress.Arrival) -> tuple[Any, ...]:
    actor = Actor(VmManager(), 1)
    progress.step(actor, Happened(Started(1), 1))
    plan = progress.step(actor, arrival)
    return plan, actor.state, actor.recorder.position


def same(odd: Packet) -> None:
    arrived = Delivered(Delivery(QUEUE, odd, redelivered=True, number=7), 5)
    assert handled(through_the_log(arrived)) == handled(arrived)


@pytest.mark.parametrize("name", [*HEADERS.values(), SCHEMA_HEADER, *PROPERTIES, "type"])
@pytest.mark.parametrize("value", ODD)
def test_a_delivery_is_handled_alike_before_the_log_and_after_it(name: str, value: str) -> None:
    same(packet(**{name: ODD[value]}))


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_no_message_is_refused_alike(body: str) -> None:
    same(packet(body=BODIES[body]))
    same(packet(body=BODIES[body], unreadable="x-time"))


@pytest.mark.parametrize(
    "event",
    [
        Started(4), TookOver(3, 4, 5, 6), TimerFired("tick/vm-0"), Returned(create()),
        MailboxGone(Mailbox("vm-0", 1, 2)),
    ],
)  # fmt: skip
def test_every_other_input_comes_back_with_its_time_and_cause(event: Any) -> None:
    happened = Happened(event, 9, Cause("id", "trace", 3, "CreateVm"))

    assert through_the_log(happened) == happened


def entry(epoch: int, number: int, **changed: Any) -> LogEntry:
    fields = {"seq": 0, "lamport": 0, "performed": (0, 0), "alive_from": 0, **changed}
    return LogEntry(epoch=epoch, number=number, **fields)


def folded(begin: int, alive: tuple[int, int], *log: Elected | LogEntry) -> Recovery:
    recovery = Recovery(Actor(VmManager(), 1), begin, alive)
    for offset, message in enumerate(log, start=begin):
        recovery.begins(offset)
        recovery.read(offset, message)
    return recovery


ELECTED = Elected(candidate="c", alive_from=0)


def test_entries_of_one_epoch_are_folded_by_their_numbers() -> None:
    """One that the broker refuses is published again, behind the next."""
    recovery = folded(0, (0, 0), ELECTED, entry(1, 2), entry(1, 1), entry(1, 3))

    assert (recovery.epoch, recovery.last, recovery.entry_count) == (1, 3, 3)


def test_what_an_epoch_writes_behind_the_next_elected_is_skipped() -> None:
    log = (ELECTED, entry(1, 1), ELECTED, entry(1, 2), entry(3, 1))

    recovery = folded(0, (0, 0), *log)

    assert (recovery.epoch, recovery.last, recovery.entry_count) == (3, 1, 2)
    assert [(epoch, last) for epoch, last, _ in recovery.ended] == [(1, 1)]


def test_a_fold_in_the_middle_begins_with_the_entry_that_was_meant() -> None:
    """Foreign messages count as offsets too, so others may stand there."""
    log = (entry(1, 9), entry(5, 2), entry(5, 4, seq=8), entry(5, 3, seq=8), entry(5, 5, seq=8))

    recovery = folded(7, (5, 3), *log)

    assert (recovery.epoch, recovery.last, recovery.entry_count) == (5, 5, 3)


def test_a_fold_whose_first_entry_was_never_written_begins_with_the_next_epoch() -> None:
    recovery = folded(7, (5, 3), entry(5, 2), ELECTED, entry(9, 1))

    assert (recovery.epoch, recovery.last) == (9, 1)


def test_a_log_that_was_cut_is_told_with_a_way_out() -> None:
    with pytest.raises(LogBroken, match=r"delete the queue teardown\.progress"):
        Recovery(Actor(VmManager(), 1), 3).begins(4)


def test_a_fold_that_comes_out_otherwise_is_told_and_not_guessed() -> None:
    with pytest.raises(LogBroken, match="the fold stands at"):
        folded(0, (0, 0), ELECTED, entry(1, 1, seq=5))

"""The monitor among peers: a letter's word, and records about what is not their writers'."""

from typing import Any

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
    life,
    record,
    reject,
    sending,
)
from support.samples import SAMPLES

from vm_manager.monitor import SKIPPED
from vm_protocol import limits
from vm_protocol.effects import Ack, CancelTimer, DeadLettered, JournalRead, Publish
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.wire import Record

CREATE = SAMPLES["CreateVm"]
TO_MANAGER = ("commands", "manager.commands")


def after(dead: DeadLettered, *records: Record) -> tuple[Any, ...]:
    """Return what a monitor that has read these does with a letter, once it is all it can know."""
    bench = MonitorBench(*records)
    return (*bench.step(dead), *bench.step(JournalRead((arrival(),))))


def published(effects: tuple[Any, ...]) -> list[Publish]:
    return [each for each in effects if isinstance(each, Publish)]


def of_manager(event: Event, **fields: object) -> Record:
    return record(event, "manager.1", **fields)


ACKED = record(
    Event.MESSAGE_ACKED, message_id=COMMAND.identity(), details={"queue": WORKER, "type": "x"}
)
ANOTHER_BODY = COMMAND.model_copy(update={"steps": ("free_vcpu",)})
UNSHOWN: dict[str, tuple[Message, str, tuple[Record, ...]]] = {
    "nobody has sent it": (COMMAND, WORKER, ()),
    "it was sent to another queue": (COMMAND, "worker.evil.commands", (sending(COMMAND),)),
    "it was sent with another body": (ANOTHER_BODY, WORKER, (sending(COMMAND),)),
    "it was acknowledged": (COMMAND, WORKER, (sending(COMMAND), ACKED)),
    "it went where the monitor may not write": (
        COMMAND,
        WORKER,
        (sending(COMMAND, to=("vm.requests", WORKER)),),
    ),
}


@pytest.mark.parametrize("case", UNSHOWN.values(), ids=list(UNSHOWN))
@pytest.mark.parametrize("sender", ["manager.1", "monitor"])
def test_a_death_that_the_history_does_not_show_is_told_and_acted_upon_by_nobody(
    case: tuple[Message, str, tuple[Record, ...]], sender: str
) -> None:
    command, queue, records = case

    effects = after(letter(command, "delivery_limit", queue, sender=sender), *records)

    assert published(effects) == []
    assert acts(effects)[-1] == Ack(LETTERS, "delivery:1")
    assert [(e["invariant"], e["why"]) for e in said(effects) if "why" in e] == [
        (None, "unrecorded")
    ]


def test_what_is_sent_again_goes_where_the_history_says_and_not_where_the_letter_does() -> None:
    shown = sending(COMMAND)
    dead = letter(COMMAND, "delivery_limit", WORKER)

    effects = after(dead, shown)

    again = Publish("commands", WORKER, COMMAND, mandatory=True, reply_to="manager.replies")
    assert published(effects) == [again]


def test_the_letter_of_what_was_sent_again_sends_nothing_when_it_comes_again() -> None:
    """Its Ack was lost: the copy is on its way, or has arrived."""
    bench = MonitorBench(sending(COMMAND))
    bench.step(letter(COMMAND, "delivery_limit", WORKER))
    bench.step(JournalRead((arrival(),)))

    bench.step(letter(COMMAND, "delivery_limit", WORKER, "delivery:2", redelivered=True))
    effects = bench.step(JournalRead((arrival("delivery:2"),)))

    assert acts(effects) == [CancelTimer("letter/delivery:2"), Ack(LETTERS, "delivery:2")]
    assert said(effects) == []


def test_what_another_monitor_has_sent_again_is_sent_no_third_time() -> None:
    details = {"queue": WORKER}
    republished = record(
        Event.DEAD_LETTER_REPUBLISHED,
        "monitor.other",
        message_id=COMMAND.identity(),
        details=details,
    )

    effects = after(letter(COMMAND, "delivery_limit", WORKER), sending(COMMAND), republished)

    assert published(effects) == []


def test_a_removed_vm_does_not_come_back() -> None:
    create = sending(CREATE, to=TO_MANAGER)
    dead = letter(CREATE, "delivery_limit", "manager.commands")

    alive = after(dead, create)
    removed = after(dead, create, of_manager(Event.VM_REMOVED))

    assert len(published(alive)) == 1
    assert published(removed) == []
    assert [e["why"] for e in said(removed) if "why" in e] == ["connections-lost"]


def test_a_vm_that_is_asked_for_anew_is_no_removed_one() -> None:
    create = sending(CREATE, to=TO_MANAGER)
    dead = letter(CREATE, "delivery_limit", "manager.commands")

    effects = after(dead, create, of_manager(Event.VM_REMOVED), sending(CREATE, to=TO_MANAGER))

    assert len(published(effects)) == 1


def test_a_flood_of_vms_that_no_manager_knows_displaces_no_real_one() -> None:
    bench = MonitorBench(sending(FLUSH), reject(FLUSH, "freed"))

    for number in range(3 * limits.MONITOR_HEARSAY_MAX):
        vm = f"vm-unknown-{number}"
        bench.read(record(Event.MESSAGE_SENT, "lab", vm=vm, message_id=f"{vm}.1/create-vm"))

    assert bench.classes(letter(FLUSH)) == [("use-after-free", "freed")]
    assert len(bench.state.index.vms) == 1 + limits.MONITOR_HEARSAY_MAX


def test_removed_vms_are_forgotten_before_those_that_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MONITOR_VMS_MAX", 2)
    bench = MonitorBench()

    for vm in ("vm-1", "vm-2"):
        bench.read(of_manager(Event.MESSAGE_SENT, vm=vm, message_id=vm))
    bench.read(of_manager(Event.VM_REMOVED, vm="vm-2"))
    bench.read(of_manager(Event.MESSAGE_SENT, vm="vm-3", message_id="vm-3"))

    assert sorted(bench.state.index.vms) == ["vm-1", "vm-3"]


def test_a_worker_tells_nothing_of_a_vcpu_that_is_another_worker_s() -> None:
    answer = SAMPLES["PlacementAnswered"].model_copy(update={"worker": "w"})
    bench = MonitorBench(sending(answer, to=("replies", "worker.w.replies")), sending(FLUSH))

    bench.read(
        record(Event.VCPU_FREED, "worker.evil", vcpu=3, caused_by="x"),
        record(
            Event.MESSAGE_REJECTED,
            "worker.evil",
            message_id=FLUSH.identity(),
            details={"queue": MAILBOX, "reason": "freed", "requeue": False},
        ),
    )
    index = bench.state.index.of("vm-7")
    bench.read(life(Event.VCPU_FREED, "y"))

    assert dict(index.freed_by) == {}
    assert dict(index.rejects) == {}
    assert dict(bench.state.index.of("vm-7").freed_by) == {3: "y"}


def test_a_chain_is_as_long_as_the_bound_and_no_longer() -> None:
    bench = MonitorBench(
        *(
            of_manager(Event.MESSAGE_SENT, message_id=str(number), caused_by=str(number + 1))
            for number in range(limits.CHAIN_LINKS_MAX + 10)
        )
    )

    assert len(bench.state.index.of("vm-7").chain("0")) == limits.CHAIN_LINKS_MAX


def test_a_removed_vm_s_requests_are_no_lag() -> None:
    """On a broker its `vm.removed` is read only if it is not among the skipped events."""
    bench = MonitorBench(sending(FLUSH))
    assert bench.state.open_requests.lag() == 1
    bench.read(of_manager(Event.VM_REMOVED))

    assert bench.state.open_requests.lag() == 0
    assert Event.VM_REMOVED not in SKIPPED

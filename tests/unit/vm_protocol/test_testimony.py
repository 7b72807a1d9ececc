"""Who may say what: the table is complete, true to what runs say, and deaf to everybody else."""

import pytest
from support.simulated import run

from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol import testimony
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

RICH = Scenario(
    vcpus=3, async_pf=1, avic=True, nested=(1,), in_guest=(0,), previous_roots=1, ticker_ms=2
)
ACTORS = ("manager.1", "monitor", "monitor.b", "worker.w", "lab")


def record(event: Event, actor: str, **details: object) -> Record:
    fields = {"seq": 0, "actor": actor, "event": event, "lamport": 0, "at_ns": 0, "vm": "vm-7"}
    return Record.model_validate(fields | {"details": details})


def is_believed(told: Record) -> bool:
    try:
        testimony.check(told)
    except RemoteProtocolError as error:
        return error.reason != RejectReason.FORGED
    return True


def test_every_event_has_its_witnesses() -> None:
    assert set(testimony.WITNESSES) == set(Event)


@pytest.mark.parametrize("name", catalogue_names())
def test_whatever_a_run_says_is_said_by_who_may(name: str) -> None:
    everything = run(catalogue_entry(name).ordering, RICH, workers=2).everything

    assert [each for each in everything if not is_believed(each)] == []


@pytest.mark.parametrize(
    ("event", "actor"),
    [
        (Event.VCPU_FREED, "worker.w"),
        (Event.REQUEST_DELIVERED, "worker.w"),
        (Event.VM_FREED, "manager.1"),
        (Event.VM_REMOVED, "manager.1"),
        (Event.ROOT_FREED, "manager.1"),
        (Event.DEAD_LETTER_CLASSIFIED, "monitor"),
        (Event.RUN_STARTED, "lab"),
    ],
)
def test_an_event_is_said_by_its_witness_and_by_nobody_else(event: Event, actor: str) -> None:
    role = actor.partition(".")[0]

    believed = {each for each in ACTORS if is_believed(record(event, each))}

    assert believed == {each for each in ACTORS if each.partition(".")[0] == role}


@pytest.mark.parametrize(
    ("kind", "actors"),
    [
        ("TlbFlush", {"manager.1"}),
        ("CreateVm", {"lab", "monitor", "monitor.b"}),
        ("RootsReleased", {"worker.w"}),
        ("no-such-type", set()),
    ],
)
def test_a_sending_is_said_by_who_may_send_it(kind: str, actors: set[str]) -> None:
    assert {
        each for each in ACTORS if is_believed(record(Event.MESSAGE_SENT, each, type=kind))
    } == actors


@pytest.mark.parametrize("event", [Event.MESSAGE_ACKED, Event.MESSAGE_REJECTED])
@pytest.mark.parametrize(
    ("queue", "actors"),
    [
        ("manager.commands", {"manager.1"}),
        ("manager.replies", {"manager.1"}),
        ("worker.w.commands", {"worker.w"}),
        ("worker.other.commands", set()),
        ("vcpu.placement", {"worker.w"}),
        ("vcpu.vm-7.3.2", {"worker.w"}),
        ("client.c.replies", {"lab"}),
        ("teardown.dead-letters", set()),
    ],
)
def test_a_settlement_is_said_by_who_consumes_the_queue(
    event: Event, queue: str, actors: set[str]
) -> None:
    assert {each for each in ACTORS if is_believed(record(event, each, queue=queue))} == actors


@pytest.mark.parametrize("actor", ["", "x", "workers", "Manager", "tester"])
def test_an_actor_of_no_role_is_not_believed(actor: str) -> None:
    assert not is_believed(record(Event.VM_FREED, actor))

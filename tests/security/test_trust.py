"""Who sends what, as a table: complete, and what the catalogue's runs are seen to do."""

from pathlib import Path

import pytest
from support.runs import tear_down
from support.samples import SAMPLES

from teardown_lab.experiment.lab import Lab
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.observations import Event
from vm_protocol.recorder import NO_CAUSE, Recorder
from vm_protocol.trust import (
    ANYBODY,
    SENDERS,
    Role,
    Trust,
    epoch_of,
    manager_actor,
    role_of,
    without_epoch,
)

EVERYBODY = Trust({role: frozenset({f"the-{role}"}) for role in Role})
ACTORS = {
    "manager": Role.MANAGER,
    "monitor": Role.MONITOR,
    "worker": Role.WORKER,
    "lab": Role.CLIENT,
}


def is_forged(trust: Trust, name: str, user: str | None) -> bool:
    try:
        trust.check(SAMPLES[name], user)
    except RemoteProtocolError as error:
        return error.reason == RejectReason.FORGED
    return False


def test_every_message_has_its_senders() -> None:
    assert sorted(SENDERS) == sorted(SAMPLES)


@pytest.mark.parametrize("name", catalogue_names())
def test_the_senders_are_those_of_the_catalogue_s_runs(
    simulated_lab: Lab, workdir: Path, name: str
) -> None:
    _, records = tear_down(simulated_lab, name, workdir, catalogue_entry(name).show)

    sent = {
        (record.details["type"], ACTORS[record.actor.partition(".")[0]])
        for record in records
        if record.event == Event.MESSAGE_SENT
    }
    assert {(kind, role) for kind, role in sent if role not in SENDERS[kind]} == set()


@pytest.mark.parametrize("name", SAMPLES)
def test_only_the_users_of_the_senders_may_send(name: str) -> None:
    users = [None, "stranger", *(f"the-{role}" for role in Role)]

    passed = {user for user in users if not is_forged(EVERYBODY, name, user)}

    assert passed == {f"the-{role}" for role in SENDERS[name]}


@pytest.mark.parametrize("name", SAMPLES)
def test_where_nobody_is_named_anybody_may_send(name: str) -> None:
    assert not is_forged(ANYBODY, name, None)
    assert not is_forged(ANYBODY, name, "stranger")


def test_a_role_with_users_is_checked_beside_one_without() -> None:
    trust = Trust({Role.MANAGER: frozenset({"m"}), Role.MONITOR: frozenset({"o"})})

    assert not is_forged(trust, "VcpuPlaced", "stranger")
    assert is_forged(trust, "DestroyVcpu", "stranger")
    assert not is_forged(trust, "DestroyVcpu", "o")


@pytest.mark.parametrize("actor", ["manager.7", "monitor", "monitor.a", "worker.w-1", "lab"])
def test_records_are_their_role_s(actor: str) -> None:
    record = Recorder(actor, 0).record(Event.VM_FREED, 0, NO_CAUSE)
    role = ACTORS[actor.partition(".")[0]]

    EVERYBODY.check_records([record], f"the-{role}")
    ANYBODY.check_records([record], None)
    for user in ("stranger", None, *(f"the-{other}" for other in Role if other != role)):
        with pytest.raises(RemoteProtocolError, match="forged"):
            EVERYBODY.check_records([record], user)


@pytest.mark.parametrize("epoch", [1, 7, 10**18])
def test_a_manager_s_name_tells_its_epoch_and_is_a_manager_s(epoch: int) -> None:
    actor = manager_actor(epoch)

    assert epoch_of(actor) == epoch
    assert role_of(actor) == Role.MANAGER
    assert without_epoch(actor) == "manager"


@pytest.mark.parametrize(
    "actor", ["manager", "manager.", "manager.0", "manager.x", "manager.1.2", "worker.1", "lab"]
)
def test_no_other_name_tells_an_epoch(actor: str) -> None:
    assert epoch_of(actor) is None
    assert without_epoch(actor) == actor


def test_records_of_an_actor_that_nobody_knows_are_forged() -> None:
    record = Recorder("hypervisor", 0).record(Event.VM_FREED, 0, NO_CAUSE)

    with pytest.raises(RemoteProtocolError):
        EVERYBODY.check_records([record], "the-manager")
    ANYBODY.check_records([record], "the-manager")

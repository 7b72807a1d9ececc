"""What the manager does when a worker of a VM is lost (decision 0035)."""

from typing import Any

import pytest
from support.cores import acts, said, sent
from support.manager_bench import (
    CLIENT,
    COMMANDS,
    QUIET,
    REPLIES,
    WORKER,
    ManagerBench,
    commands_in,
    create,
    destroy,
    done,
    loop,
    placed,
    refusal,
    released,
    requests_in,
)

from vm_manager.vm import Vm
from vm_protocol import limits, messages
from vm_protocol.effects import (
    Ack,
    CancelTimer,
    DeleteMailbox,
    Effect,
    Publish,
    Received,
    Reject,
    SetTimer,
    TimerFired,
    Unbind,
)
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox

SILENT = TimerFired("lease/vm-0/a")
EACH = loop("unload_mmu", "free_vcpu", "erase_vcpu")


def shared_by_two(**shape: Any) -> ManagerBench:
    """A running VM whose even vCPUs are worker a's, and whose odd ones worker b's."""
    bench = ManagerBench()
    scenario = Scenario.model_validate({"vcpus": 4, "ticker": False, **shape})
    bench.command(create(scenario))
    for vcpu in range(scenario.vcpus):
        bench.reply(placed(vcpu, "ab"[vcpu % 2]))
    return bench


def alive(worker: str = "a", number: int = 1) -> Message:
    return messages.WorkerAlive(vm="vm-0", worker=worker, number=number)


def leaving(worker: str = "a") -> Message:
    return messages.WorkerLeaving(vm="vm-0", worker=worker)


def lost(effects: tuple[Effect, ...]) -> list[dict[str, Any]]:
    return said(effects, Event.HOST_LOST)


def loss(*vcpus: int, reason: str = "silent") -> list[dict[str, Any]]:
    told = {"event": "host.lost", "vcpu": None, "worker": "a", "reason": reason, "vcpus": vcpus}
    return [told]


def rejected(message: Message) -> Effect:
    return Reject(REPLIES, message.identity(), RejectReason.NOT_OWNED)


def pins(vm: Vm) -> set[int]:
    return {pin.vcpu for root in vm.roots for pin in root.pins}


# --- the lease ---------------------------------------------------------------------------------


def test_the_first_vcpu_of_each_worker_begins_a_lease_that_its_words_about_the_vm_renew() -> None:
    bench = ManagerBench()
    bench.command(create(Scenario(vcpus=3, ticker=False)))

    told = [bench.reply(placed(vcpu, worker)) for vcpu, worker in enumerate("aab")]

    begun = [[each for each in effects if isinstance(each, SetTimer)] for effects in told]
    lease = limits.LEASE_MS
    assert begun == [
        [SetTimer("lease/vm-0/a", lease, quiet=True, of="worker.a vm-0.1")],
        [],
        [SetTimer("lease/vm-0/b", lease, quiet=True, of="worker.b vm-0.1")],
    ]


def test_a_sign_of_life_is_acknowledged_and_changes_nothing() -> None:
    bench = shared_by_two()
    before = bench.state

    assert bench.reply(alive()) == (Ack(REPLIES, alive().identity()),)
    assert bench.reply(alive("stranger")) == (Ack(REPLIES, alive("stranger").identity()),)
    assert bench.state == before
    bench.command(messages.RemoveVm(vm="vm-0"))
    assert bench.reply(alive()) == (Ack(REPLIES, alive().identity()),)


@pytest.mark.parametrize("word", [alive(), leaving()])
def test_nobody_speaks_for_another_worker(word: Message) -> None:
    bench = shared_by_two()
    before = bench.state

    event = Received(REPLIES, word, word.identity(), 0, WORKER, sender="worker.b")

    assert bench.step(event) == (rejected(word),)
    assert bench.state == before


def test_a_vm_that_is_freed_needs_no_worker() -> None:
    bench = shared_by_two()
    bench.command(destroy("uninit_mmu"))

    assert bench.step(SILENT) == ()
    assert CancelTimer("lease/vm-0/a") in bench.command(messages.RemoveVm(vm="vm-0"))
    assert bench.step(SILENT) == ()


# --- what becomes of the VM --------------------------------------------------------------------


def test_lost_vcpus_leave_the_array_and_their_pins_and_mailboxes_go() -> None:
    bench = shared_by_two()

    effects = bench.step(SILENT)

    assert lost(effects) == loss(0, 2)
    assert [each for each in acts(effects) if isinstance(each, Unbind | DeleteMailbox)] == [
        Unbind(Mailbox("vm-0", 0)),
        Unbind(Mailbox("vm-0", 2)),
        DeleteMailbox(Mailbox("vm-0", 0)),
        DeleteMailbox(Mailbox("vm-0", 2)),
    ]
    assert bench.vm.visible() == (1, 3)
    assert pins(bench.vm) == {1, 3}
    assert requests_in(effects) == [], "no root was invalid"
    assert bench.step(SILENT) == (), "lost once"


def test_the_last_pin_of_an_invalid_root_flushes_the_others_once_for_each_context() -> None:
    bench = shared_by_two(mmu="shadow", previous_roots=1)
    bench.command(destroy("zap_all_roots", EACH))

    effects = bench.step(SILENT)

    flushes = [(kind, recipients) for kind, _, recipients in requests_in(effects)]
    assert flushes == [("TlbFlush", (1, 3))] * 2, "one for each lost vCPU: one context has roots"
    assert len(said(effects, Event.ROOT_FREED)) == 4
    assert {each["by"] for each in said(effects, Event.ROOT_FREED)} == {"host-lost"}
    assert pins(bench.vm) == {1, 3}


def test_a_root_that_others_pin_stays_and_raises_no_flush() -> None:
    bench = shared_by_two(roots="shared")
    bench.command(destroy("zap_all_roots", EACH))

    effects = bench.step(SILENT)

    assert requests_in(effects) == []
    assert pins(bench.vm) == {1, 3}


def test_the_ordering_goes_on_with_the_others_and_ends() -> None:
    bench = shared_by_two()
    (first,) = commands_in(bench.command(destroy(EACH, "uninit_mmu")))

    effects = bench.step(SILENT)
    (second,) = commands_in(effects)
    (third,) = commands_in(bench.reply(done(second)))
    bench.reply(done(third))

    assert [command.vcpu for command in (first, second, third)] == [0, 1, 3]
    assert bench.vm.phase == "freed"


def test_commands_to_others_that_are_on_their_way_are_still_waited_for() -> None:
    bench = shared_by_two()
    sent_to = commands_in(bench.command(destroy(loop("free_vcpu", parallel="all"))))

    assert commands_in(bench.step(SILENT)) == []
    assert bench.vm.phase == "destroying"
    for command in (sent_to[1], sent_to[3]):
        bench.reply(done(command))
    assert bench.vm.phase == "freed"


def test_a_step_waits_no_more_for_a_lost_guest() -> None:
    bench = shared_by_two(in_guest=(0, 1))
    bench.command(destroy("flush_tlbs", "free_irqchip"))

    bench.step(SILENT)
    waiting = bench.vm.phase
    bench.reply(messages.RequestAcked(vm="vm-0", vcpu=1, generation=1))

    assert (waiting, bench.vm.phase) == ("destroying", "freed")


def test_a_step_that_waited_for_lost_guests_alone_ends() -> None:
    bench = shared_by_two(in_guest=(0, 2))
    bench.command(destroy("flush_tlbs", "free_irqchip"))

    effects = bench.step(SILENT)

    assert CancelTimer("flush/vm-0") in effects
    assert bench.vm.phase == "freed"


def test_an_unload_of_another_vcpu_is_answered_when_only_lost_vcpus_have_not_acknowledged() -> None:
    bench = shared_by_two()
    bench.command(
        destroy("zap_all_roots", loop("unload_mmu", order="descending"), flush_wait="all")
    )
    for vcpu in range(4):
        bench.reply(messages.RequestAcked(vm="vm-0", vcpu=vcpu, generation=bench.vm.generation))
    bench.reply(released(3, ("root-3",)))
    for vcpu in (1, 3):
        bench.reply(messages.RequestAcked(vm="vm-0", vcpu=vcpu, generation=bench.vm.generation))

    effects = bench.step(SILENT)

    answers = [each for each in sent(effects) if isinstance(each, messages.UnloadDone)]
    assert [each.vcpu for each in answers] == [3]
    assert bench.vm.waits == ()


def test_an_unload_of_a_lost_vcpu_is_not_answered() -> None:
    bench = shared_by_two(in_guest=(1,), ticker=False)
    bench.command(destroy("zap_all_roots", loop("unload_mmu")))
    bench.reply(messages.RequestAcked(vm="vm-0", vcpu=1, generation=5))
    bench.reply(released(0, ("root-0",)))

    effects = bench.step(SILENT)

    assert not [each for each in sent(effects) if isinstance(each, messages.UnloadDone)]
    assert bench.vm.waits == ()


# --- what a lost worker says later -------------------------------------------------------------

LATE: list[Message] = [
    released(0, ("root-0",)),
    messages.VcpuStepsDone(vm="vm-0", vcpu=0, step="0.0", outcome="done"),
    messages.VmStateRead(vm="vm-0", vcpu=0, step="0.0", position=0, state="irqchip"),
    messages.RequestAcked(vm="vm-0", vcpu=0, generation=1),
    alive(),
    leaving(),
]


@pytest.mark.parametrize("message", LATE)
def test_nothing_that_a_lost_worker_says_is_accepted(message: Message) -> None:
    bench = shared_by_two()
    bench.command(destroy(EACH))
    bench.step(SILENT)
    before = bench.state

    assert bench.reply(message) == (rejected(message),)
    assert bench.state == before


def test_a_late_placement_is_answered_with_no() -> None:
    bench = shared_by_two()
    bench.step(SILENT)

    told, settled = bench.reply(placed(0, "a"))

    assert isinstance(told, Publish)
    assert isinstance(told.message, messages.PlacementAnswered)
    assert (told.message.accepted, settled) == (False, rejected(placed(0, "a")))


def test_the_monitor_may_still_tell_of_a_lost_vcpus_command() -> None:
    bench = shared_by_two()
    bench.command(destroy(EACH))
    bench.step(SILENT)
    stuck = messages.CommandStuck(vm="vm-0", vcpu=0, step="0.0")

    assert bench.reply(stuck) == (Ack(REPLIES, stuck.identity()),)
    assert bench.vm.phase == "destroying"


# --- creation, and leaving ---------------------------------------------------------------------


def test_a_creation_that_loses_a_worker_is_hidden_then_removed_and_refused() -> None:
    bench = ManagerBench()
    bench.command(create(QUIET))
    bench.reply(placed(0, "a"))

    effects = bench.step(SILENT)

    mailboxes = [Mailbox("vm-0", 0), Mailbox("vm-0", 1)]
    told = Publish(
        "replies",
        CLIENT,
        refusal(create(QUIET), "host-lost"),
        correlation_id=create(QUIET).identity(),
    )
    undone: list[Effect] = [told, Ack(COMMANDS, create(QUIET).identity())]
    undone += [Unbind(each) for each in mailboxes]
    gone = [each for each in acts(effects) if not isinstance(each, CancelTimer)]
    assert lost(effects) == loss(0)
    assert gone == [*undone, *(DeleteMailbox(each) for each in mailboxes)]
    assert "vm-0" not in bench.state.vms


def test_a_worker_that_leaves_is_lost_at_once_where_no_teardown_is_under_way() -> None:
    bench = shared_by_two()

    effects = bench.reply(leaving())

    assert lost(effects) == loss(0, 2, reason="drained")
    assert effects[-1] == Ack(REPLIES, leaving().identity())
    assert bench.vm.visible() == (1, 3)


def test_a_worker_that_leaves_may_finish_a_teardown() -> None:
    bench = shared_by_two()
    (first,) = commands_in(bench.command(destroy(EACH)))

    assert bench.reply(leaving()) == (Ack(REPLIES, leaving().identity()),)
    (second,) = commands_in(bench.reply(done(first)))
    effects = bench.step(SILENT)

    assert second.vcpu == 1
    assert lost(effects) == loss(0, 2, reason="drained")

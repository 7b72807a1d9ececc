"""Workers' replies, the monitor's word and timers: how the manager takes them."""

import pytest
from hypothesis import given
from support.cores import acts, said, sent
from support.manager_bench import (
    REPLIES,
    WORKER,
    ManagerBench,
    commands_in,
    create,
    destroy,
    done,
    loop,
    placed,
    released,
    requests_in,
    to_client,
)
from support.orderings import orderings, scenarios

from vm_protocol import limits, messages
from vm_protocol.effects import (
    Ack,
    DeleteMailbox,
    Publish,
    Received,
    Reject,
    Returned,
    SetTimer,
    TimerFired,
)
from vm_protocol.errors import LocalProtocolError, RejectReason
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox

FREE_ALL = destroy(loop("free_vcpu"))
CREATED = messages.VmCreated(vm="vm-0", workers=("w",))
REMOVE = messages.RemoveVm(vm="vm-0")


def destroyed(outcome: str = "freed") -> Message:
    return messages.VmDestroyed.model_validate({"vm": "vm-0", "outcome": outcome})


def freed() -> ManagerBench:
    bench = ManagerBench.running()
    bench.command(destroy("uninit_mmu"))
    return bench


# --- replies of workers ----------------------------------------------------------------------


@pytest.mark.parametrize(("sender", "is_taken"), [("worker.w", True), ("worker.other", False)])
def test_what_is_said_of_a_vcpu_is_taken_from_the_worker_that_owns_it(
    sender: str, is_taken: bool
) -> None:
    bench = ManagerBench.running()
    (first, *_) = commands_in(bench.command(FREE_ALL))
    answer = done(first)
    before = bench.state

    received = Received(REPLIES, answer, answer.identity(), 0, WORKER, sender=sender)
    effects = bench.step(received)

    refused = Reject(REPLIES, answer.identity(), RejectReason.NOT_OWNED)
    assert (refused in effects) == (not is_taken)
    assert (bench.state == before) == (not is_taken)


STRANGERS: list[Message] = [
    placed(0).model_copy(update={"vm": "vm-9"}),
    placed(0).model_copy(update={"incarnation": 2}),
    placed(2),
]


@pytest.mark.parametrize("message", STRANGERS)
def test_a_placement_of_a_vcpu_that_is_not_ours_is_refused_and_rejected(message: Message) -> None:
    bench = ManagerBench.running()
    before = bench.state

    told, rejected = bench.reply(message)

    assert isinstance(told, Publish)
    assert isinstance(told.message, messages.PlacementAnswered)
    assert (told.routing_key, told.message.accepted) == (WORKER, False)
    assert rejected == Reject(REPLIES, message.identity(), RejectReason.NOT_OWNED)
    assert bench.state == before


@pytest.mark.parametrize(
    ("message", "reply_to"),
    [(CREATED, WORKER), (released(0), None), (FREE_ALL, WORKER), (REMOVE, WORKER)],
)
def test_a_reply_that_is_none_is_rejected(message: Message, reply_to: str | None) -> None:
    effects = ManagerBench.running().reply(message, reply_to)

    assert effects == (Reject(REPLIES, message.identity(), RejectReason.UNEXPECTED),)


def unload_answer(generation: int) -> Message:
    return messages.UnloadDone(vm="vm-0", vcpu=0, step="0.0", position=0, generation=generation)


def test_an_unload_that_dooms_a_root_flushes_frees_it_and_says_the_generation() -> None:
    bench = ManagerBench.running()
    bench.command(destroy("zap_all_roots", loop("unload_mmu")))

    effects = bench.reply(released(0, ("root-0",)))

    assert requests_in(effects) == [("TlbFlush", 4, (0, 1))]
    assert [each["root"] for each in said(effects, Event.ROOT_FREED)] == ["root-0"]
    assert sent(effects)[-1] == unload_answer(4)
    assert acts(effects)[-1] == Ack(REPLIES, released(0, ("root-0",)).identity())
    assert [root.name for root in bench.vm.roots] == ["root-1"]


def test_an_unload_without_a_zap_before_it_flushes_nothing_and_leaves_the_root_cached() -> None:
    bench = ManagerBench.running()
    bench.command(destroy(loop("unload_mmu")))

    effects = bench.reply(released(0, ("root-0",)))

    assert sent(effects) == [unload_answer(0)]
    assert next((root.name, root.pins) for root in bench.vm.roots) == ("root-0", ())


def test_a_shared_root_is_flushed_for_by_its_last_holder_only() -> None:
    bench = ManagerBench.running(Scenario(vcpus=2, roots="shared", ticker=False))
    bench.command(destroy("zap_all_roots", loop("unload_mmu", parallel="all")))

    first = bench.reply(released(0, ("root-all",)))
    last = bench.reply(released(1, ("root-all",)))

    assert (requests_in(first), requests_in(last)) == ([], [("TlbFlush", 3, (0, 1))])


def test_current_and_previous_roots_of_one_context_share_a_flush() -> None:
    bench = ManagerBench.running(Scenario(vcpus=1, previous_roots=2, ticker=False))
    bench.command(destroy("zap_all_roots", loop("unload_mmu")))

    effects = bench.reply(released(0, ("root-0", "previous0-0", "previous1-0")))

    assert [kind for kind, _, _ in requests_in(effects)] == ["TlbFlush"]
    assert len(said(effects, Event.ROOT_FREED)) == 3


def test_under_tdp_only_the_nested_context_s_shadow_root_raises_a_flush() -> None:
    bench = ManagerBench.running(Scenario(vcpus=1, mmu="tdp", nested=(0,), ticker=False))
    bench.command(destroy("zap_all_roots", loop("unload_mmu")))

    effects = bench.reply(released(0, ("root-0",), ("nested-0",)))

    assert [kind for kind, _, _ in requests_in(effects)] == ["TlbFlush"]
    assert [each["root"] for each in said(effects, Event.ROOT_FREED)] == ["nested-0"]


def zap_requested(vcpu: int, *names: str) -> Message:
    return messages.ZapRequested(
        vm="vm-0", vcpu=vcpu, step="0.0", position=0, attempt=1, contexts=(names, ())
    )


@pytest.mark.parametrize("mmu", ["shadow", "tdp"])
def test_the_zap_of_2007_frees_unpinned_roots_counts_the_rest_and_posts_nothing(mmu: str) -> None:
    bench = ManagerBench.running(Scenario.model_validate({"vcpus": 2, "mmu": mmu}))
    bench.command(destroy(loop("zap_all_until_empty")))

    effects = bench.reply(zap_requested(0, "root-0"))

    assert sent(effects) == [
        messages.ZapDone(vm="vm-0", vcpu=0, step="0.0", position=0, attempt=1, roots_left=1)
    ]
    assert [each["root"] for each in said(effects, Event.ROOT_FREED)] == ["root-0"]
    assert not any(root.invalid for root in bench.vm.roots)


@pytest.mark.parametrize("state", ["irqchip", "vendor"])
@pytest.mark.parametrize("freed_first", [False, True])
def test_a_touch_of_vm_state_is_rejected_exactly_when_that_state_is_freed(
    state: str, freed_first: bool
) -> None:
    bench = ManagerBench.running()
    steps = {"irqchip": "free_irqchip", "vendor": "vendor_vm_destroy"}
    other = {"irqchip": "vendor_vm_destroy", "vendor": "free_irqchip"}
    bench.command(destroy((steps if freed_first else other)[state], loop("free_vcpu")))
    read = messages.VmStateRead.model_validate(
        {"vm": "vm-0", "vcpu": 0, "step": "1.0", "position": 0, "state": state}
    )

    effects = bench.reply(read)

    refused = Reject(REPLIES, read.identity(), RejectReason.VM_STATE_FREED)
    assert acts(effects) == [refused if freed_first else Ack(REPLIES, read.identity())]
    assert said(effects) == [
        {"event": "vm_state.read", "vcpu": 0, "state": state, "freed": freed_first}
    ]


def test_a_touch_that_was_granted_and_comes_again_after_the_free_touches_nothing() -> None:
    bench = ManagerBench.running()
    bench.command(
        destroy(loop("leave_nested", order="descending"), "free_irqchip", loop("free_vcpu"))
    )
    reads = [
        messages.VmStateRead(vm="vm-0", vcpu=vcpu, step="0.0", position=0, state="irqchip")
        for vcpu in (0, 1)
    ]
    granted = bench.reply(reads[0])
    for vcpu in (1, 0):
        bench.reply(messages.VcpuStepsDone(vm="vm-0", vcpu=vcpu, step="0.0", outcome="done"))

    again, first = bench.reply(reads[0]), bench.reply(reads[1])

    assert bench.vm.freed_state == {"irqchip"}
    assert len(said(granted, Event.VM_STATE_READ)) == 1
    assert again == (Ack(REPLIES, reads[0].identity()),)
    assert acts(first) == [Reject(REPLIES, reads[1].identity(), RejectReason.VM_STATE_FREED)]


def test_a_zap_that_is_asked_for_again_frees_nothing_more_and_is_answered_as_before() -> None:
    bench = ManagerBench.running(Scenario(vcpus=2, ticker=False))
    bench.command(destroy(loop("zap_all_until_empty")))
    answer = sent(bench.reply(zap_requested(0, "root-0")))
    bench.reply(released(1, ("root-1",)))
    before = bench.state

    again = bench.reply(zap_requested(0, "root-0"))

    assert sent(again) == answer
    assert (said(again), bench.state) == ([], before)


# --- stuck -----------------------------------------------------------------------------------


def stuck_by(how: str, bench: ManagerBench, command: messages.DestroyVcpu) -> list[object]:
    why = "connections-lost" if how == "lost connections" else "rejects"
    told = messages.CommandStuck(vm="vm-0", vcpu=command.vcpu, step=command.step, why=why)
    match how:
        case "fence":
            return list(acts(bench.reply(done(command, "stuck"))))
        case "delivery limit" | "lost connections":
            return list(acts(bench.reply(told)))
        case _:
            return list(acts(bench.step(Returned(command))))


@pytest.mark.parametrize("how", ["fence", "delivery limit", "lost connections", "returned"])
def test_a_command_that_cannot_end_ends_the_teardown_and_answers_the_client(how: str) -> None:
    bench = ManagerBench.running()
    (command,) = commands_in(bench.command(FREE_ALL))

    effects = stuck_by(how, bench, command)

    publish, ack = to_client(destroyed("stuck"), FREE_ALL)
    assert effects.index(publish) + 1 == effects.index(ack)
    assert bench.vm.phase == "stuck"
    assert commands_in(bench.reply(done(command))) == []
    assert list(bench.command(FREE_ALL)) == [publish, ack]


@pytest.mark.parametrize("how", ["fence", "delivery limit", "lost connections", "returned"])
def test_a_command_that_is_not_waited_for_stops_nothing(how: str) -> None:
    bench = ManagerBench.running()
    (command,) = commands_in(bench.command(FREE_ALL))
    bench.reply(done(command))
    before = bench.state

    stuck_by(how, bench, command)

    assert bench.state == before


# --- timers ----------------------------------------------------------------------------------


def test_the_ticker_starts_with_the_vm_and_posts_to_all_that_are_visible() -> None:
    bench = ManagerBench()
    bench.command(create(Scenario(vcpus=2, ticker_ms=7)))
    bench.reply(placed(0))

    started = bench.reply(placed(1))
    tick = bench.step(TimerFired("tick/vm-0"))

    assert SetTimer("tick/vm-0", 7) in started
    assert requests_in(tick) == [("ClockUpdate", 1, (0, 1))]
    assert tick[-1] == SetTimer("tick/vm-0", 7)


def test_without_a_ticker_no_timer_is_set() -> None:
    bench = ManagerBench()
    bench.command(create())
    bench.reply(placed(0))

    assert [e for e in bench.reply(placed(1)) if isinstance(e, SetTimer)] == []


@pytest.mark.parametrize("name", ["tick/vm-0", "tick/vm-9"])
def test_a_late_tick_after_the_workers_are_stopped_posts_nothing(name: str) -> None:
    bench = ManagerBench.running(Scenario(vcpus=2))
    bench.command(destroy("stop_background_workers", loop("free_vcpu")))
    before = bench.state

    assert (bench.step(TimerFired(name)), bench.state) == ((), before)


@pytest.mark.parametrize("name", ["tock/vm-0", "vm-0", "", "fence/vm-9", "letter/vm-0"])
def test_a_timer_that_no_manager_sets_is_refused_and_taken_for_no_tick(name: str) -> None:
    bench = ManagerBench.running(Scenario(vcpus=2))

    with pytest.raises(LocalProtocolError, match=f"{name}.*timer|timer .*{name}"):
        bench.step(TimerFired(name))


def test_the_quarantine_ends_with_the_mailboxes() -> None:
    bench = freed()

    effects = bench.step(TimerFired("quarantine/vm-0"))

    deleted = [effect for effect in effects if isinstance(effect, DeleteMailbox)]
    assert deleted == [DeleteMailbox(Mailbox("vm-0", vcpu)) for vcpu in (0, 1)]
    assert len(bench.state.vms) == 0


def test_in_quarantine_late_replies_are_still_taken() -> None:
    bench = freed()

    effects = bench.reply(released(0, ("root-0",)))

    assert sent(effects) == [unload_answer(0)]


# --- idempotence -----------------------------------------------------------------------------


@given(ordering=orderings(), scenario=scenarios(vcpus_max=3))
def test_every_reply_that_comes_twice_changes_nothing_the_second_time(
    ordering: Ordering, scenario: Scenario
) -> None:
    bench = ManagerBench.running(scenario)
    waiting = commands_in(bench.command(messages.DestroyVm(vm="vm-0", ordering=ordering)))
    while waiting:
        command = waiting.pop(0)
        names = tuple(root.name for root in bench.vm.roots)
        place = {"vm": "vm-0", "vcpu": command.vcpu, "step": command.step, "position": 0}
        unloaded = messages.RootsReleased.model_validate(
            {**place, "contexts": (names[: limits.ROOTS_OF_CONTEXT_MAX], ())}
        )
        for reply in (unloaded, done(command)):
            waiting += commands_in(bench.reply(reply))
            once = bench.state
            again = bench.reply(reply)
            assert bench.state == once
            assert said(again) == []
            assert not isinstance(acts(again)[-1], Reject)

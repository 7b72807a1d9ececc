"""Clients' commands: what the manager answers in every phase of a VM."""

from collections.abc import Callable

import pytest
from support.cores import acts, said, sent
from support.manager_bench import (
    CLIENT,
    COMMANDS,
    QUIET,
    REPLIES,
    ManagerBench,
    commands_in,
    create,
    destroy,
    done,
    loop,
    placed,
    placement_answered,
    refusal,
    to_client,
)

from vm_manager.state import ManagerState
from vm_protocol import limits, messages, topology
from vm_protocol.effects import (
    Ack,
    Bind,
    CancelTimer,
    Consume,
    DeclareMailbox,
    DeleteMailbox,
    Publish,
    Reject,
    SetTimer,
    Started,
    TookOver,
    observed,
)
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox

CONSUME_REPLIES = Consume(topology.MANAGER_REPLIES_QUEUE, limits.REPLIES_PREFETCH)
FREE_ALL = destroy(loop("free_vcpu"))
CREATED = messages.VmCreated(vm="vm-0", workers=("w",))
REMOVE = messages.RemoveVm(vm="vm-0")
TURN = ["CancelTimer", "SetTimer"]
"""What a VM's turn to take places begins with."""


def destroyed(outcome: str = "freed") -> Message:
    return messages.VmDestroyed.model_validate({"vm": "vm-0", "outcome": outcome})


# --- the election ----------------------------------------------------------------------------


def test_a_manager_that_starts_takes_commands_and_replies() -> None:
    """It starts when it is elected: one that stands by would take another's replies."""
    assert ManagerBench().step(Started()) == (
        Consume(topology.MANAGER_COMMANDS_QUEUE, limits.MANAGER_PREFETCH),
        CONSUME_REPLIES,
    )


def test_a_manager_without_vms_is_as_at_the_beginning() -> None:
    """So whoever takes over need not know what was before."""
    bench = ManagerBench.running()
    bench.command(messages.RemoveVm(vm="vm-0"))

    assert bench.state == ManagerState()


def test_a_manager_that_takes_over_says_so_of_each_vm_that_lives() -> None:
    bench = ManagerBench.running()
    took_over = {"predecessor": 3, "entry": 7, "seq": 40, "repeated": 2}

    effects = bench.step(TookOver(**took_over))

    assert effects == (observed(Event.MANAGER_TOOK_OVER, "vm-0", **took_over),)
    assert ManagerBench().step(TookOver(**took_over)) == ()


def test_a_manager_that_takes_over_says_so_of_creations_that_wait() -> None:
    """Its predecessor has received them: they are in the history under its name."""
    bench = ManagerBench()
    bench.command(create())
    bench.command(messages.CreateVm(vm="vm-1", scenario=QUIET))

    effects = bench.step(TookOver(3, 7, 40, 2))

    assert [each.vm for each in effects] == ["vm-0", "vm-1"]


# --- CreateVm --------------------------------------------------------------------------------


def test_a_vm_begins_with_mailboxes_that_are_declared_bound_and_then_placed() -> None:
    effects = ManagerBench().command(create())

    kinds = [type(effect).__name__ for effect in acts(effects)]
    assert kinds == [*TURN] + ["DeclareMailbox", "Bind"] * 2 + ["Publish"] * 2
    assert [e for e in effects if isinstance(e, DeclareMailbox | Bind)] == [
        step(Mailbox("vm-0", vcpu)) for vcpu in (0, 1) for step in (DeclareMailbox, Bind)
    ]
    (first, _) = [effect for effect in effects if isinstance(effect, Publish)]
    assert first == Publish(
        "placement",
        "vcpu.placement",
        messages.PlaceVcpu(
            vm="vm-0",
            vcpu=0,
            contexts=(("root-0",), ()),
            async_pf=0,
            nested=False,
            avic=False,
            in_guest=False,
            fence_ms=limits.FENCE_MS,
        ),
        mandatory=True,
        reply_to=REPLIES,
    )


def test_a_new_vm_s_roots_are_allocated_and_pinned_before_anything_else() -> None:
    effects = ManagerBench().command(create())

    assert [each["event"] for each in said(effects)][:4] == ["root.allocated", "root.pinned"] * 2


def test_a_second_worker_that_says_it_owns_a_vcpu_is_not_believed() -> None:
    bench = ManagerBench()
    bench.command(create())
    bench.reply(placed(0, "a"))
    before = bench.state

    effects = bench.reply(placed(0, "b"))

    assert list(effects) == placement_answered(0, "b", accepted=False)
    assert bench.state == before


def test_the_client_is_answered_when_the_last_vcpu_is_placed() -> None:
    bench = ManagerBench()
    bench.command(create())

    first = bench.reply(placed(1, "b"))
    last = bench.reply(placed(0, "a"))

    answer = messages.VmCreated(vm="vm-0", workers=("a", "b"))
    told, ack = placement_answered(0, "a")
    assert acts(first) == placement_answered(1, "b")
    turn_ends = CancelTimer("placing/vm-0")
    assert acts(last) == [told, *to_client(answer, create()), ack, turn_ends]


def test_a_create_that_comes_again_waits_with_the_first_and_then_gets_its_answer() -> None:
    bench = ManagerBench()
    bench.command(create())

    waiting = bench.command(create())
    bench.reply(placed(0))
    bench.reply(placed(1))
    later = bench.command(create())

    assert waiting == ()
    assert list(later) == to_client(CREATED, create())


def test_a_create_of_the_same_name_by_another_client_is_refused_and_held_with_the_first() -> None:
    bench = ManagerBench()
    bench.command(create())
    before = bench.state

    effects = bench.command(create(), "client.other.replies")

    (publish,) = effects
    assert publish == Publish(
        "replies",
        "client.other.replies",
        refusal(create(), "vm-already-exists"),
        correlation_id=create().identity(),
    )
    assert bench.state == before


@pytest.mark.parametrize(
    "other", [create(Scenario(vcpus=3)), create(QUIET, incarnation=2)], ids=["shape", "incarnation"]
)
def test_another_vm_of_the_same_name_is_refused(other: messages.CreateVm) -> None:
    bench = ManagerBench.running()

    effects = bench.command(other)

    assert list(effects) == to_client(refusal(other, "vm-already-exists"), other)


def test_one_vm_more_than_the_limit_is_refused() -> None:
    bench = ManagerBench.running()
    vm = bench.vm
    vms = {f"vm-{n}": vm for n in range(limits.VMS_MAX)}
    bench.state = type(bench.state)(bench.state.vms.update(vms))
    one_more = messages.CreateVm(vm="one-more", scenario=QUIET)

    effects = bench.command(one_more)

    assert list(effects) == to_client(refusal(one_more, "vm-limit-reached"), one_more)


# --- DestroyVm -------------------------------------------------------------------------------


def test_a_destroy_is_acknowledged_when_the_vm_is_gone_and_not_before() -> None:
    bench = ManagerBench.running(Scenario(vcpus=1, ticker=False))

    begun = bench.command(FREE_ALL)
    (command,) = commands_in(begun)
    ended = bench.reply(done(command))

    assert Ack(COMMANDS, FREE_ALL.identity()) not in begun
    assert said(begun, Event.TEARDOWN_STARTED)[0]["ordering"]["name"] == "o"
    assert acts(ended) == [
        CancelTimer("tick/vm-0"),
        *to_client(destroyed(), FREE_ALL),
        SetTimer("quarantine/vm-0", limits.QUARANTINE_MS),
        Ack(REPLIES, done(command).identity()),
    ]


def test_a_destroy_that_comes_again_is_held_with_the_first_and_answered_afterwards() -> None:
    bench = ManagerBench.running(Scenario(vcpus=1, ticker=False))
    (command,) = commands_in(bench.command(FREE_ALL))
    before = bench.state

    waiting = bench.command(FREE_ALL)
    unchanged = bench.state == before
    bench.reply(done(command))
    later = bench.command(FREE_ALL)

    assert waiting == ()
    assert unchanged
    assert list(later) == to_client(destroyed(), FREE_ALL)


@pytest.mark.parametrize(
    ("other", "reply_to"), [(FREE_ALL, "client.other.replies"), (destroy("uninit_mmu"), CLIENT)]
)
def test_another_destroy_while_one_runs_is_refused_without_settling_the_first(
    other: messages.DestroyVm, reply_to: str
) -> None:
    bench = ManagerBench.running()
    bench.command(FREE_ALL)
    before = bench.state

    effects = bench.command(other, reply_to)

    assert sent(effects) == [refusal(other, "teardown-running")]
    assert len(effects) == 1
    assert bench.state == before


@pytest.mark.parametrize("incarnation", [None, 2])
def test_a_destroy_of_an_unknown_vm_is_refused(incarnation: int | None) -> None:
    bench = ManagerBench() if incarnation is None else ManagerBench.running()
    command = FREE_ALL.model_copy(update={"incarnation": incarnation or 1})

    effects = bench.command(command)

    assert acts(effects)[-2:] == to_client(refusal(command, "vm-not-found"), command)


def test_a_destroy_before_the_vm_is_created_is_refused() -> None:
    bench = ManagerBench()
    bench.command(create())

    assert list(bench.command(FREE_ALL)) == to_client(refusal(FREE_ALL, "vm-not-ready"), FREE_ALL)


@pytest.mark.parametrize(
    ("message", "reply_to"),
    [(CREATED, CLIENT), (FREE_ALL, None), (create(), None), (placed(0), CLIENT)],
)
def test_what_is_no_client_s_command_or_cannot_be_answered_is_rejected(
    message: Message, reply_to: str | None
) -> None:
    effects = ManagerBench.running().command(message, reply_to)

    assert effects == (Reject(COMMANDS, message.identity(), RejectReason.UNEXPECTED),)


# --- RemoveVm --------------------------------------------------------------------------------


def creating() -> ManagerBench:
    bench = ManagerBench()
    bench.command(create())
    return bench


def destroying() -> ManagerBench:
    bench = ManagerBench.running()
    bench.command(FREE_ALL)
    return bench


def freed() -> ManagerBench:
    bench = ManagerBench.running()
    bench.command(destroy("uninit_mmu"))
    return bench


def stuck() -> ManagerBench:
    bench = ManagerBench.running()
    (command,) = commands_in(bench.command(FREE_ALL))
    bench.reply(done(command, "stuck"))
    return bench


PHASES: dict[str, tuple[Callable[[], ManagerBench], Message | None]] = {
    "creating": (creating, create()),
    "running": (ManagerBench.running, None),
    "destroying": (destroying, FREE_ALL),
    "freed": (freed, None),
    "stuck": (stuck, None),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_vm_is_removed_in_every_phase_with_its_mailboxes_timers_and_held_command(
    phase: str,
) -> None:
    make, held = PHASES[phase]
    bench = make()
    assert bench.vm.phase == phase

    effects = bench.command(REMOVE)

    settled = [Ack(COMMANDS, held.identity())] if held else []
    deleted = [DeleteMailbox(Mailbox("vm-0", vcpu)) for vcpu in (0, 1)]
    answer = to_client(messages.VmRemoved(vm="vm-0"), REMOVE)
    rest = [effect for effect in acts(effects) if not isinstance(effect, CancelTimer)]
    assert rest == [*settled, *deleted, *answer]
    assert {CancelTimer("tick/vm-0"), CancelTimer("quarantine/vm-0")} <= set(acts(effects))
    assert len(said(effects, Event.VM_REMOVED)) == 1
    assert len(bench.state.vms) == 0


@pytest.mark.parametrize("incarnation", [1, 2])
def test_removing_what_is_not_there_is_answered_all_the_same(incarnation: int) -> None:
    bench = ManagerBench.running()
    other = messages.RemoveVm(vm="vm-0" if incarnation == 2 else "vm-9", incarnation=incarnation)
    before = bench.state

    effects = bench.command(other)

    answer = messages.VmRemoved(vm=other.vm, incarnation=incarnation)
    assert list(effects) == to_client(answer, other)
    assert bench.state == before


def test_a_removed_vm_s_name_can_be_taken_again() -> None:
    bench = ManagerBench.running()
    bench.command(REMOVE)

    bench.command(create(Scenario(vcpus=1)))

    assert bench.vm.phase == "creating"


@pytest.mark.parametrize("placed_first", [False, True])
def test_a_creation_ends_when_a_placement_that_it_waits_for_is_given_up(placed_first: bool) -> None:
    bench = ManagerBench()
    effects = bench.command(create())
    place = next(each for each in sent(effects) if isinstance(each, messages.PlaceVcpu))
    if placed_first:  # by another copy of it
        bench.reply(placed(place.vcpu))

    given_up = refusal(place, "connections-lost")
    done = [each for each in acts(bench.reply(given_up)) if not isinstance(each, CancelTimer)]

    settled = Ack(topology.MANAGER_REPLIES_QUEUE.name, given_up.identity())
    if placed_first:
        assert done == [settled]
        return
    deleted = [DeleteMailbox(Mailbox("vm-0", vcpu)) for vcpu in (0, 1)]
    refused = to_client(refusal(create(), "connections-lost"), create())
    assert done == [*refused, *deleted, settled]
    assert len(bench.state.vms) == 0

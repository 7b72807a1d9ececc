"""Which creations take places, which wait, which are refused; and what an ordering may cost."""

from support.cores import acts, sent
from support.manager_bench import CLIENT, COMMANDS, ManagerBench, destroy, placed, refusal

from vm_protocol import limits, messages
from vm_protocol.effects import (
    Ack,
    DeleteMailbox,
    Effect,
    Publish,
    Received,
    Returned,
    SetTimer,
    TimerFired,
)
from vm_protocol.scenario import Scenario

PLACING = TimerFired("placing/vm-0")


def creation_of(vm: str, vcpus: int = 1, incarnation: int = 1) -> messages.CreateVm:
    scenario = Scenario(vcpus=vcpus, ticker=False)
    return messages.CreateVm(vm=vm, incarnation=incarnation, scenario=scenario)


def says(bench: ManagerBench, vm: str, vcpu: int, worker: str, places: int) -> tuple[Effect, ...]:
    """A worker takes a placement, and says how many places it has."""
    message = messages.VcpuPlaced(vm=vm, vcpu=vcpu, worker=worker, places=places)
    return bench.reply(message)


def placements_in(effects: tuple[Effect, ...]) -> list[str]:
    return [each.vm for each in sent(effects) if isinstance(each, messages.PlaceVcpu)]


def refusals_in(effects: tuple[Effect, ...]) -> list[messages.Refused]:
    return [each for each in sent(effects) if isinstance(each, messages.Refused)]


def test_a_creation_waits_without_taking_anything_while_another_takes_places() -> None:
    bench = ManagerBench()
    bench.command(creation_of("vm-0"))

    waits = bench.command(creation_of("vm-1"))

    assert waits == (SetTimer("waiting/vm-1", limits.CREATION_WAIT_MS),)


def test_the_next_in_line_takes_places_when_the_one_before_has_got_its_own() -> None:
    bench = ManagerBench()
    for vm in ("vm-0", "vm-1", "vm-2"):
        bench.command(creation_of(vm))

    effects = bench.reply(placed(0))

    assert placements_in(effects) == ["vm-1"]
    assert [each.vm for each in bench.state.waiting] == ["vm-2"]


def test_the_next_in_line_takes_places_when_the_one_before_is_removed() -> None:
    bench = ManagerBench()
    for vm in ("vm-0", "vm-1"):
        bench.command(creation_of(vm))

    effects = bench.command(messages.RemoveVm(vm="vm-0"))

    assert placements_in(effects) == ["vm-1"]
    assert not bench.state.waiting


def test_a_creation_that_waits_is_removed_and_both_commands_are_settled() -> None:
    bench = ManagerBench()
    for vm in ("vm-0", "vm-1"):
        bench.command(creation_of(vm))
    remove = messages.RemoveVm(vm="vm-1")

    effects = bench.command(remove)

    settled = [each.message_id for each in effects if isinstance(each, Ack)]
    assert settled == [creation_of("vm-1").identity(), remove.identity()]
    assert sent(effects) == [messages.VmRemoved(vm="vm-1")]
    assert not bench.state.waiting


def test_what_is_sent_again_while_it_waits_waits_with_the_first() -> None:
    bench = ManagerBench()
    for vm in ("vm-0", "vm-1"):
        bench.command(creation_of(vm))
    before = bench.state

    assert bench.command(creation_of("vm-1")) == ()
    assert bench.state == before


def test_another_creation_of_a_name_that_waits_is_refused_and_the_first_goes_on() -> None:
    bench = ManagerBench()
    for vm in ("vm-0", "vm-1"):
        bench.command(creation_of(vm))
    before = bench.state

    by_another = bench.command(creation_of("vm-1"), "client.other.replies")
    of_another_shape = bench.command(creation_of("vm-1", incarnation=2))

    code = "vm-already-exists"
    assert sent(by_another) == [refusal(creation_of("vm-1"), code)]
    assert not any(isinstance(each, Ack) for each in by_another), "that would settle the first too"
    assert sent(of_another_shape) == [refusal(creation_of("vm-1", incarnation=2), code)]
    assert bench.state == before


def test_a_teardown_of_a_vm_that_waits_is_not_ready() -> None:
    bench = ManagerBench()
    bench.command(creation_of("vm-wait"))
    bench.command(creation_of("vm-0"))

    effects = bench.command(destroy("uninit_mmu"))

    assert sent(effects) == [refusal(destroy("uninit_mmu"), "vm-not-ready")]


def test_more_creations_than_may_wait_are_refused_at_once() -> None:
    bench = ManagerBench()
    for number in range(limits.CREATIONS_WAITING_MAX + 1):
        bench.command(creation_of(f"vm-{number}"))

    effects = bench.command(creation_of("one-more"))

    (refused,) = refusals_in(effects)
    assert refused.code == "no-places"
    assert refused.why.startswith("0 places are free, and 256 creations wait")
    assert Ack(COMMANDS, creation_of("one-more").identity()) in effects
    assert len(bench.state.waiting) == limits.CREATIONS_WAITING_MAX


def test_a_vm_larger_than_all_workers_is_undone_as_soon_as_it_gets_no_further() -> None:
    bench = ManagerBench()
    bench.command(creation_of("vm-0", vcpus=4))
    bench.command(creation_of("vm-1"))
    says(bench, "vm-0", 0, "a", places=2)
    says(bench, "vm-0", 1, "a", places=2)

    looked = bench.step(PLACING)
    ended = bench.step(PLACING)

    assert looked == (SetTimer("placing/vm-0", limits.PLACING_MS),)
    (refused,) = refusals_in(ended)
    assert refused.code == "no-places"
    assert refused.why.startswith("4 vCPUs want a place each, and the workers have 2; 2 were free")
    assert sum(isinstance(each, DeleteMailbox) for each in ended) == 4
    assert placements_in(ended) == ["vm-1"]


def test_a_vm_that_the_workers_could_hold_waits_for_places_that_others_have() -> None:
    bench = ManagerBench()
    bench.command(creation_of("vm-keeps"))
    says(bench, "vm-keeps", 0, "a", places=2)
    bench.command(creation_of("vm-0", vcpus=2))
    says(bench, "vm-0", 0, "a", places=2)

    looks = 0
    while not refusals_in(bench.step(PLACING)):
        looks += 1

    assert looks == limits.CREATION_WAIT_MS // limits.PLACING_MS
    assert "vm-0" not in bench.state.vms


def test_places_that_come_one_by_one_keep_a_creation_alive() -> None:
    bench = ManagerBench()
    vcpus = 3 * limits.CREATION_WAIT_MS // limits.PLACING_MS
    bench.command(creation_of("vm-0", vcpus=vcpus))

    for vcpu in range(vcpus):
        says(bench, "vm-0", vcpu, "a", places=vcpus)
        bench.step(PLACING)

    assert bench.vm.phase == "running"


def test_a_large_vm_asks_for_a_few_places_at_once_and_for_the_next_with_each_that_it_gets() -> None:
    bench = ManagerBench()
    vcpus = limits.PLACEMENTS_AT_ONCE + 2

    begun = bench.command(creation_of("vm-0", vcpus=vcpus))
    later = [len(placements_in(says(bench, "vm-0", vcpu, "a", vcpus))) for vcpu in range(vcpus)]

    assert len(placements_in(begun)) == limits.PLACEMENTS_AT_ONCE
    assert later == [1, 1] + [0] * limits.PLACEMENTS_AT_ONCE
    assert bench.vm.phase == "running"


def test_one_whose_turn_does_not_come_is_told_why() -> None:
    bench = ManagerBench()
    for vm in ("vm-0", "vm-1", "vm-2"):
        bench.command(creation_of(vm))

    effects = bench.step(TimerFired("waiting/vm-2"))

    (refused,) = refusals_in(effects)
    assert "creations before this one took what came free" in refused.why
    assert Ack(COMMANDS, creation_of("vm-2").identity()) in effects
    assert bench.step(TimerFired("waiting/vm-2")) == ()


def test_a_vm_that_nobody_hears_of_is_undone() -> None:
    bench = ManagerBench()
    bench.command(creation_of("vm-0"))
    (created,) = [
        each.message
        for each in bench.reply(placed(0))
        if isinstance(each, Publish) and isinstance(each.message, messages.VmCreated)
    ]

    effects = bench.step(Returned(created))

    assert "vm-0" not in bench.state.vms
    assert any(isinstance(each, DeleteMailbox) for each in acts(effects))


def test_a_vm_that_is_destroyed_already_stays_when_its_answer_comes_back() -> None:
    bench = ManagerBench.running(Scenario(vcpus=1, ticker=False))
    bench.command(destroy("flush_tlbs", "uninit_mmu"))
    before = bench.state

    assert bench.step(Returned(messages.VmCreated(vm="vm-0", workers=("w",)))) == ()
    assert bench.state == before


def test_workers_names_that_are_remembered_are_bounded() -> None:
    bench = ManagerBench()
    bench.command(creation_of("vm-0"))

    for number in range(limits.WORKERS_MAX + 5):
        says(bench, "vm-0", 0, f"w-{number}", places=1)

    assert len(bench.state.places) == limits.WORKERS_MAX


def test_an_ordering_that_costs_too_much_is_refused_and_the_vm_stays_as_it_is() -> None:
    bench = ManagerBench.running(Scenario(vcpus=128, ticker=False))
    before = bench.state
    command = destroy(*["zap_all_roots"] * 40)

    effects = bench.step(Received(COMMANDS, command, command.identity(), 0, CLIENT))

    (refused,) = refusals_in(effects)
    assert refused.code == "too-much-work"
    assert refused.why.startswith("`zap_all_roots` (step 1) makes 16,512 messages")
    assert Ack(COMMANDS, command.identity()) in effects
    assert bench.state == before

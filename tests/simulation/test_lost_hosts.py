"""Whole runs in the simulator whose workers are killed, or stopped for a while (decision 0035)."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from support.exploring import shipped
from support.simulated import Run, run

from teardown_lab.checker.findings import LostHost, Verdict
from teardown_lab.simulator.world import World
from vm_manager import lost_hosts
from vm_manager.vm import Vm, VmStepped
from vm_protocol import limits
from vm_protocol.effects import Leaving, Observed, Publish
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

TIMEOUT_MS = 4 * limits.LEASE_MS
WORKER = "worker.worker-1"
OTHER = "worker.worker-2"

Moment = Callable[[Record], bool]


def at(event: Event, actor: str = "", **details: object) -> Moment:
    """Return what recognises the record at which something is done to a worker."""

    def is_it(record: Record) -> bool:
        said = all(record.details.get(name) == value for name, value in details.items())
        return record.event == event and said and (not actor or record.actor == actor)

    return is_it


class Once:
    """Does something to the worker at one record, and `then` at another."""

    def __init__(
        self,
        moment: Moment,
        do: Callable[[World], None],
        then: tuple[Moment, Callable[[World], None]] | None = None,
    ) -> None:
        self.turns = [(moment, do), *([then] if then else [])]

    def __call__(self, world: World, record: Record) -> None:
        if self.turns and self.turns[0][0](record):
            self.turns.pop(0)[1](world)


def killed(name: str, moment: Moment, worker: str = WORKER, **shape: object) -> Run:
    scenario = Scenario.model_validate({"vcpus": 4, "ticker": False, **shape})
    kill = Once(moment, lambda world: world.kill(worker))
    ended = run(shipped(name), scenario, 2, meanwhile=kill, timeout_ms=TIMEOUT_MS)
    assert not kill.turns, "the moment came"
    return ended


TEARDOWN = at(Event.TEARDOWN_STARTED)
STEPS = {
    "as the teardown begins": TEARDOWN,
    "as roots are zapped": at(Event.STEP_STARTED, name="zap_all_roots"),
    "in an unload": at(Event.MESSAGE_SENT, WORKER, type="RootsReleased"),
    "as a command arrives": at(Event.MESSAGE_RECEIVED, WORKER, type="DestroyVcpu"),
    "with a vCPU freed": at(Event.VCPU_FREED, WORKER),
}
SAFE = ("unload-in-destroy", "unload-all-first-erase-each", "fenced-parallel-destroy")


@pytest.mark.parametrize("ordering", SAFE)
@pytest.mark.parametrize("when", STEPS)
def test_the_teardown_ends_and_its_verdict_names_the_lost_host(ordering: str, when: str) -> None:
    ended = killed(ordering, STEPS[when])

    judgement = ended.judgement
    assert (judgement.notes, judgement.violations) == ((), ())
    assert judgement.verdict is Verdict.SAFE
    (lost,) = judgement.lost_hosts
    assert (lost.worker, lost.reason) == ("worker-1", "silent")
    assert judgement.counts.unaccounted == 0
    assert ended.state.outcome == "settled"
    assert ended.queues_left() == []


@pytest.mark.parametrize("shape", [{"in_guest": (0, 1, 2, 3)}, {"nested": (0, 1), "mmu": "tdp"}])
@pytest.mark.parametrize("roots", ["distinct", "shared", "mixed"])
@pytest.mark.parametrize("when", STEPS)
def test_nothing_waits_for_a_lost_guest_or_blames_it(
    when: str, roots: str, shape: dict[str, object]
) -> None:
    ended = killed("fenced-parallel-destroy", STEPS[when], roots=roots, async_pf=1, **shape)

    judgement = ended.judgement
    assert (judgement.notes, judgement.violations) == ((), ())
    assert len(judgement.lost_hosts) == 1


def test_a_host_that_the_teardown_has_no_use_for_any_more_is_not_lost() -> None:
    ended = killed("unload-in-destroy", at(Event.STEP_STARTED, name="free_irqchip"))

    assert (ended.judgement.verdict, ended.judgement.lost_hosts) == (Verdict.SAFE, ())


def test_a_bug_of_the_ordering_is_found_all_the_same() -> None:
    ended = killed("unload-in-destroy-wipe-last", at(Event.VCPU_FREED, WORKER), vcpus=6)

    assert ended.judgement.verdict is Verdict.VIOLATED
    assert {each.invariant for each in ended.judgement.violations} == {"use-after-free"}
    assert [each.worker for each in ended.judgement.lost_hosts] == ["worker-1"]


def test_a_vm_that_loses_every_host_is_freed() -> None:
    def both(world: World) -> None:
        world.kill(WORKER)
        world.kill(OTHER)

    ended = run(
        shipped("unload-in-destroy"),
        Scenario(vcpus=4, ticker=False),
        2,
        meanwhile=Once(TEARDOWN, both),
        timeout_ms=TIMEOUT_MS,
    )

    judgement = ended.judgement
    assert judgement.verdict is Verdict.SAFE
    assert judgement.hazards == ()
    assert {each.worker for each in judgement.lost_hosts} == {"worker-1", "worker-2"}


def test_a_creation_that_loses_a_worker_is_undone_and_refused() -> None:
    first = at(Event.VCPU_CREATED, WORKER)

    def both(world: World) -> None:
        world.kill(WORKER)
        world.kill(OTHER)

    ended = run(
        shipped("unload-in-destroy"),
        Scenario(vcpus=6, ticker=False),
        2,
        meanwhile=Once(first, both),
        timeout_ms=TIMEOUT_MS,
    )

    assert (ended.state.outcome, ended.state.refusal) == ("refused", "host-lost")
    assert ended.queues_left() == []


NO_TOUCH = {Event.MESSAGE_RECEIVED, Event.MESSAGE_REJECTED, Event.MESSAGE_ACKED}


@pytest.mark.parametrize("when", STEPS)
def test_a_worker_that_was_stopped_beyond_its_lease_touches_nothing_when_it_goes_on(
    when: str,
) -> None:
    then = (at(Event.HOST_LOST), lambda world: world.resume(WORKER))
    stopped = Once(STEPS[when], lambda world: world.pause(WORKER), then)

    ended = run(
        shipped("unload-in-destroy"),
        Scenario(vcpus=4, ticker=False),
        2,
        meanwhile=stopped,
        timeout_ms=TIMEOUT_MS,
    )

    own = [record for record in ended.everything if record.actor == WORKER]
    place = next(n for n, record in enumerate(own) if record.event == Event.HOST_LAPSED)
    after = own[place + 1 :]
    acked = [record for record in after if record.event == Event.MESSAGE_ACKED]
    assert {record.event for record in after} <= NO_TOUCH
    assert {record.details["type"] for record in acked} <= {"UnloadDone"}
    assert {record.details.get("reason") for record in after} <= {None, "not-owned"}
    assert (ended.judgement.notes, ended.judgement.verdict) == ((), Verdict.SAFE)
    assert ended.judgement.lost_hosts == (LostHost("worker-1", "silent", (0, 2)),)


def test_a_worker_that_was_stopped_for_less_than_its_lease_goes_on() -> None:
    then = (at(Event.MESSAGE_SENT, OTHER, type="WorkerAlive"), lambda world: world.resume(WORKER))
    stopped = Once(TEARDOWN, lambda world: world.pause(WORKER), then)

    ended = run(
        shipped("unload-in-destroy"),
        Scenario(vcpus=4, ticker=False),
        2,
        meanwhile=stopped,
        timeout_ms=TIMEOUT_MS,
    )

    assert not stopped.turns
    assert (ended.judgement.verdict, ended.judgement.lost_hosts) == (Verdict.SAFE, ())


def test_a_worker_that_has_nothing_to_do_for_longer_than_its_lease_is_not_lost() -> None:
    ended = killed("unload-in-destroy", TEARDOWN, worker=WORKER)

    words = [
        record.details["body"]["number"]
        for record in ended.records
        if record.event == Event.MESSAGE_SENT and record.details["type"] == "WorkerAlive"
    ]
    assert words == list(range(1, limits.LEASE_MS // limits.ALIVE_MS + 1))
    assert [lost.worker for lost in ended.judgement.lost_hosts] == ["worker-1"]


def drained(moment: Moment, name: str = "unload-in-destroy") -> Run:
    leave = Once(moment, lambda world: world.tell(WORKER, Leaving()))
    scenario = Scenario(vcpus=4, ticker=False)
    ended = run(shipped(name), scenario, 2, meanwhile=leave, timeout_ms=TIMEOUT_MS)
    assert not leave.turns
    return ended


@pytest.mark.parametrize("when", STEPS)
def test_a_worker_that_leaves_in_a_teardown_finishes_its_part(when: str) -> None:
    ended = drained(STEPS[when])

    assert (ended.judgement.notes, ended.judgement.verdict) == ((), Verdict.SAFE)
    assert ended.judgement.lost_hosts == ()


def test_a_worker_that_leaves_before_the_teardown_is_lost_to_it_at_once() -> None:
    ended = drained(at(Event.VM_CREATED))

    assert (ended.judgement.notes, ended.judgement.verdict) == ((), Verdict.SAFE)
    assert ended.judgement.lost_hosts == (LostHost("worker-1", "drained", (0, 2)),)


# --- a manager that does not keep its own rules ------------------------------------------------


def mistaken(monkeypatch: pytest.MonkeyPatch, name: str, mistake: Callable[..., object]) -> Run:
    monkeypatch.setattr(lost_hosts, name, mistake)
    return killed("unload-in-destroy", at(Event.STEP_FINISHED, name="zap_all_roots"))


def test_a_loss_that_owes_a_flush_and_raises_none_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = lost_hosts._release

    def without_flush(vm: Vm, lost: tuple[int, ...]) -> VmStepped:
        released, effects = release(vm, lost)
        posts = (Event.REQUEST_POSTED,)
        kept = tuple(
            each
            for each in effects
            if not isinstance(each, Publish)
            and not (isinstance(each, Observed) and each.event in posts)
        )
        return replace(released, generation=vm.generation, slots=vm.slots), kept

    judgement = mistaken(monkeypatch, "_release", without_flush).judgement

    assert judgement.verdict is Verdict.VIOLATED
    assert {each.invariant for each in judgement.violations} == {"lost-request"}
    assert {each.vcpu for each in judgement.violations} == {1, 3}
    assert "the loss of a host released the last pin" in judgement.violations[0].explain


def test_pins_that_a_lost_host_keeps_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    judgement = mistaken(monkeypatch, "_release", lambda vm, _: (vm, ())).judgement

    assert judgement.verdict is not Verdict.SAFE
    assert any("root.unpinned of root-0" in note for note in judgement.notes)

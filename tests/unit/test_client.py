"""The client of a run: what it waits for before it writes down that the run has ended."""

from collections.abc import Callable

import pytest
from support.manager_bench import loop, ordering
from support.simulated import CheckedCore

from teardown_lab.experiment.client import (
    GAPS_MS,
    GAPS_TIMER,
    MISSING_MAX,
    STUCK_MS,
    STUCK_TIMER,
    TIMEOUT_TIMER,
    Client,
    Experiment,
)
from teardown_lab.experiment.client_actor import ClientActor
from teardown_lab.experiment.standing import Around, Lost
from vm_protocol import messages
from vm_protocol.actor import Action, Plan
from vm_protocol.effects import Input, JournalRead, Received, SetTimer, TimerFired
from vm_protocol.observations import Event
from vm_protocol.recorder import NO_CAUSE
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

VM = "vm-0"


class Run:
    """A client, whose core is held to being pure; `end` tells it that its teardown is over."""

    def __init__(self, look_around: Callable[[], Around | None] = Around) -> None:
        experiment = Experiment(VM, ordering(loop("free_vcpu")), Scenario(), "b", "run", 60_000)
        self.collected: list[Record] = []
        self.actor = ClientActor(Client(experiment), self.collected.append, look_around)
        self.actor.core = CheckedCore(self.actor.core)
        self.numbers = 0
        self.finished: list[dict[str, object]] = []

    def take(self, plan: Plan) -> tuple[Action, ...]:
        self.finished += [r.details for r in plan.records if r.event == Event.RUN_FINISHED]
        return plan.actions

    def step(self, event: Input) -> tuple[Action, ...]:
        return self.take(self.actor.handle(event, NO_CAUSE, 0))

    def answer(self, message: messages.Message) -> tuple[Action, ...]:
        return self.step(Received("client", message, message.identity(), 1))

    def read(self, event: Event, message_id: str | None = None, **details: object) -> None:
        self.numbers += 1
        fields = {"seq": self.numbers, "actor": "x", "event": event, "lamport": 0, "at_ns": 0}
        fields |= {"vm": VM, "message_id": message_id, "details": details}
        self.step(JournalRead((Record.model_validate(fields),)))

    def end(self, outcome: str) -> tuple[Action, ...]:
        self.answer(messages.VmCreated(vm=VM, workers=("w",)))
        self.read(Event.MESSAGE_SENT, "d", type="DestroyVcpu")
        self.read(Event.TEARDOWN_STUCK if outcome == "stuck" else Event.VM_FREED)
        self.read(Event.MESSAGE_SENT, "v", type="VmDestroyed")
        answer = {"vm": VM, "outcome": outcome}
        return self.answer(messages.VmDestroyed.model_validate(answer))


@pytest.mark.parametrize("ends", ["by itself", "by the timer"])
def test_a_stuck_run_waits_for_the_commands_that_are_being_worked_on(ends: str) -> None:
    run = Run()
    actions = run.end("stuck")
    assert SetTimer(STUCK_TIMER, STUCK_MS) in actions
    assert run.finished == []

    if ends == "by itself":
        queue = "worker.w.commands"
        run.read(Event.MESSAGE_RECEIVED, "d", type="DestroyVcpu", queue=queue)
        run.read(Event.MESSAGE_ACKED, "d", queue=queue)
    else:
        run.step(TimerFired(STUCK_TIMER))

    assert run.finished == [{"outcome": "settled"}]


def test_a_run_whose_vm_is_freed_has_waited_for_its_commands() -> None:
    run = Run()
    run.end("freed")
    assert run.finished == [{"outcome": "settled"}]


@pytest.mark.parametrize("ends", ["by itself", "by the timer"])
def test_a_run_waits_for_records_that_are_late(ends: str) -> None:
    """Records of a service that has lost its broker come after what others say of its messages."""
    run = Run()
    run.read(Event.MESSAGE_RECEIVED, "late", type="RootsReleased", queue="manager.replies")
    actions = run.end("freed")
    assert SetTimer(GAPS_TIMER, GAPS_MS) in actions
    assert run.finished == []

    if ends == "by itself":
        run.read(Event.MESSAGE_SENT, "late", type="RootsReleased")
    else:
        run.step(TimerFired(GAPS_TIMER))

    assert run.finished == [{"outcome": "settled"}]


@pytest.mark.parametrize(
    ("services_answer", "outcome"), [(True, "timed-out-alive"), (False, "timed-out")]
)
def test_a_run_that_is_out_of_time_ends_once_somebody_has_looked(
    services_answer: bool, outcome: str
) -> None:
    """While somebody looks, nothing else ends it: not the answer, and not a loss."""
    run = Run(look_around=lambda: None)
    gone = tuple(f"worker {number} is gone" for number in range(MISSING_MAX + 1))

    run.step(TimerFired(TIMEOUT_TIMER))
    run.end("freed")
    run.take(run.actor.tell(Lost(gone), 0))
    assert run.finished == []
    run.take(run.actor.tell(Around(services_answer, gone), 0))

    missing = gone[:MISSING_MAX]
    assert run.finished == [{"outcome": outcome, "timeout_ms": 60_000, "missing": missing}]


def test_a_run_that_has_lost_somebody_ends_and_is_then_told_nothing_more() -> None:
    run = Run()

    run.take(run.actor.tell(Lost(("worker w is gone",)), 0))
    run.take(run.actor.tell(Around(), 0))
    run.step(TimerFired(TIMEOUT_TIMER))

    missing = ("worker w is gone",)
    assert run.finished == [{"outcome": "lost", "timeout_ms": 60_000, "missing": missing}]


def test_the_history_is_collected_once_however_often_the_core_is_stepped() -> None:
    run = Run()
    run.read(Event.VM_CREATED)
    run.read(Event.VM_FREED)
    assert [record.event for record in run.collected] == [Event.VM_CREATED, Event.VM_FREED]

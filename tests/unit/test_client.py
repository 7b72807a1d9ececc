"""The client of a run: what it waits for before it writes down that the run has ended."""

import pytest
from support.cores import Stepper, said
from support.manager_bench import loop, ordering

from teardown_lab.experiment.client import (
    GAPS_MS,
    GAPS_TIMER,
    STUCK_MS,
    STUCK_TIMER,
    Client,
    ClientState,
    Collector,
    Experiment,
)
from vm_protocol import messages
from vm_protocol.effects import Effect, JournalRead, Received, SetTimer, TimerFired
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

VM = "vm-0"


class Run:
    """A client that is told that its teardown is over, with one command still in a worker."""

    def __init__(self) -> None:
        experiment = Experiment(VM, ordering(loop("free_vcpu")), Scenario(), "b", "run", 60_000)
        self.collector = Collector(VM)
        self.stepper: Stepper[ClientState] = Stepper(Client(experiment, self.collector))
        self.numbers = 0

    def answer(self, message: messages.Message) -> tuple[Effect, ...]:
        return self.stepper.step(Received("client", message, message.identity(), 1))

    def read(self, event: Event, message_id: str | None = None, **details: object) -> None:
        self.numbers += 1
        fields = {"seq": self.numbers, "actor": "x", "event": event, "lamport": 0, "at_ns": 0}
        fields |= {"vm": VM, "message_id": message_id, "details": details}
        self.collector.read((Record.model_validate(fields),))

    def ended(self, outcome: str) -> tuple[Effect, ...]:
        self.answer(messages.VmCreated(vm=VM, workers=("w",)))
        self.read(Event.MESSAGE_SENT, "d", type="DestroyVcpu")
        self.read(Event.TEARDOWN_STUCK if outcome == "stuck" else Event.VM_FREED)
        self.read(Event.MESSAGE_SENT, "v", type="VmDestroyed")
        answer = {"vm": VM, "outcome": outcome}
        return self.answer(messages.VmDestroyed.model_validate(answer))


@pytest.mark.parametrize("ends", ["by itself", "by the timer"])
def test_a_stuck_run_waits_for_the_commands_that_are_being_worked_on(ends: str) -> None:
    run = Run()
    effects = run.ended("stuck")
    assert SetTimer(STUCK_TIMER, STUCK_MS) in effects
    assert run.stepper.state.outcome is None

    if ends == "by itself":
        queue = "worker.w.commands"
        run.read(Event.MESSAGE_RECEIVED, "d", type="DestroyVcpu", queue=queue)
        run.read(Event.MESSAGE_ACKED, "d", queue=queue)
    last = run.stepper.step(TimerFired(STUCK_TIMER))

    assert said(last, Event.RUN_FINISHED) == [
        {"event": "run.finished", "vcpu": None, "outcome": "settled"}
    ]


def test_a_run_whose_vm_is_freed_has_waited_for_its_commands() -> None:
    assert len(said(Run().ended("freed"), Event.RUN_FINISHED)) == 1


@pytest.mark.parametrize("ends", ["by itself", "by the timer"])
def test_a_run_waits_for_records_that_are_late(ends: str) -> None:
    """Records of a service that has lost its broker come after what others say of its messages."""
    run = Run()
    run.read(Event.MESSAGE_RECEIVED, "late", type="RootsReleased", queue="manager.1.replies")
    effects = run.ended("freed")
    assert SetTimer(GAPS_TIMER, GAPS_MS) in effects
    assert run.stepper.state.outcome is None

    if ends == "by itself":
        run.read(Event.MESSAGE_SENT, "late", type="RootsReleased")
        last = run.stepper.step(JournalRead(()))
    else:
        last = run.stepper.step(TimerFired(GAPS_TIMER))

    assert len(said(last, Event.RUN_FINISHED)) == 1

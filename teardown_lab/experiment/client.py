"""The client of one run, as a core: creates a VM, destroys it, waits until all is accounted for.

It runs under either driver beside the services. What it reads of the journal goes to a Collector,
which is no part of its state: the history is evidence, not a decision.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

from teardown_lab.checker.settlement import Settlement
from vm_protocol import limits, messages, topology
from vm_protocol.effects import (
    Ack,
    CancelTimer,
    Consume,
    DeadLettered,
    DeleteQueue,
    Effect,
    Input,
    JournalRead,
    MailboxGone,
    Publish,
    Received,
    Returned,
    SetTimer,
    Started,
    TimerFired,
    observed,
)
from vm_protocol.observations import Event
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

RunOutcome = Literal["settled", "timed-out-alive", "timed-out", "lost", "interrupted", "refused"]
RunPhase = Literal["creating", "destroying", "settling", "closing", "removing", "done"]

BEGIN_TIMER = "run-begin"
TIMEOUT_TIMER = "run-timeout"
LOST_TIMER = "run-lost"
"""Fired by whoever watches the services: somebody is gone, and waiting is of no use."""

MISSING_MAX = 4
"""How many of those who are gone a history names."""

REMOVAL_TIMER = "run-removal"
STUCK_TIMER = "run-stuck"
STUCK_MS = limits.FENCE_MS + limits.REQUEST_MS
"""How long a stuck teardown's other commands may take to end: a worker's longest waits."""

GAPS_TIMER = "run-gaps"
GAPS_MS = 4 * limits.CONFIRM_MS_MAX
"""How long missing records are waited for: twice as long as a silent session may be kept."""

REMOVAL_MS = 5_000
"""How long a removed VM's answer is waited for before the run ends without it."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """What a run does; `timeout_ms` bounds it, `remove` clears the VM away at the end.

    `whole` says that these services have served nobody else, so that a gap in an actor's records
    is a loss.
    """

    vm: str
    ordering: Ordering
    scenario: Scenario
    broker: str
    source: str
    timeout_ms: int
    remove: bool = True
    whole: bool = False


class Collector:
    """The history of one VM, as the journal gives it, and whether it is complete."""

    def __init__(self, vm: str, on_record: Callable[[Record], None] = lambda _: None) -> None:
        self._vm = vm
        self._settlement = Settlement(vm)
        self._on_record = on_record
        self.has_finished = False

    def read(self, records: tuple[Record, ...]) -> None:
        """Keep the records of this VM, up to the last of the run itself."""
        for record in records:
            if record.vm == self._vm and not self.has_finished:
                self._settlement.feed(record)
                self._on_record(record)
                self.has_finished = record.event == Event.RUN_FINISHED

    @property
    def settled(self) -> bool:
        """Tell whether nothing that the verdict needs is still under way."""
        return self._settlement.settled

    @property
    def quiet(self) -> bool:
        """Tell whether no command is being worked on."""
        return self._settlement.quiet

    @property
    def has_gaps(self) -> bool:
        """Tell whether records are missing that may still come."""
        return self._settlement.has_gaps


@dataclass(frozen=True, slots=True)
class ClientState:
    """Where the run stands, and how it ended; `refusal` is the manager's code, if it refused.

    `why` are the manager's words for a refusal. `patient`: a teardown is stuck, and the run waits
    for its other commands to end. `hopeful`: records are missing that may still come.
    """

    phase: RunPhase = "creating"
    outcome: RunOutcome | None = None
    refusal: str | None = None
    why: str = ""
    patient: bool = False
    hopeful: bool = True


GAPS_BOUND: tuple[Effect, ...] = (SetTimer(GAPS_TIMER, GAPS_MS),)
ClientResult = tuple[ClientState, tuple[Effect, ...]]


@dataclass(frozen=True)
class Client:
    """The client as a core; at the end of a run that did not settle, it is asked two questions.

    `services_answer` tells whether the services live, `who_is_missing` names who or what is gone.
    """

    experiment: Experiment
    collector: Collector
    services_answer: Callable[[], bool] = field(default=lambda: True)
    who_is_missing: Callable[[], tuple[str, ...]] = field(default=tuple)

    @property
    def actor(self) -> str:
        """Return the actor's name in the history."""
        return "lab"

    @property
    def replies(self) -> topology.Queue:
        """Return the queue that this run gets its answers on."""
        return topology.client_replies(self.experiment.vm)

    def initial(self) -> ClientState:
        """Return the state before anything was sent."""
        return ClientState()

    def step(self, state: ClientState, event: Input) -> ClientResult:
        """Return the state after an input, and its effects (vm_protocol.effects.Core)."""
        match event:
            case Started():
                return state, self._begin()
            case Received():
                after, effects = self._received(state, event.message)
                return after, (*effects, Ack(event.queue, event.message_id))
            case JournalRead():
                self.collector.read(event.records)
                return self._look(state)
            case TimerFired(name=name) if name == BEGIN_TIMER:
                return state, self._create()
            case TimerFired(name=name) if name == TIMEOUT_TIMER:
                outcome: RunOutcome = "timed-out-alive" if self.services_answer() else "timed-out"
                return self._finish(state, outcome)
            case TimerFired(name=name) if name == LOST_TIMER and _is_waiting(state):
                return self._finish(state, "lost")
            case TimerFired(name=name) if name == STUCK_TIMER:
                return self._look(replace(state, patient=False))
            case TimerFired(name=name) if name == GAPS_TIMER:
                return self._look(replace(state, hopeful=False))
            case TimerFired(name=name) if name == REMOVAL_TIMER:
                return self._done(state)
            case TimerFired() | Returned() | MailboxGone() | DeadLettered():
                return state, ()  # what no service answers ends by time-out or LOST_TIMER
            case _:
                assert_never(event)

    def _begin(self) -> tuple[Effect, ...]:
        """Read the journal from its next record on; only then is there anything to read."""
        return (
            Consume(self.replies, limits.REPLIES_PREFETCH),
            Consume(topology.JOURNAL_QUEUE, limits.STREAM_PREFETCH, "next"),
            SetTimer(TIMEOUT_TIMER, self.experiment.timeout_ms),
            SetTimer(BEGIN_TIMER, 0),
        )

    def _create(self) -> tuple[Effect, ...]:
        experiment = self.experiment
        create = messages.CreateVm(vm=experiment.vm, scenario=experiment.scenario)
        return (
            observed(
                Event.RUN_STARTED,
                experiment.vm,
                broker=experiment.broker,
                source=experiment.source,
                ordering=experiment.ordering.name,
                scenario=experiment.scenario.model_dump(mode="json"),
                whole=experiment.whole,
                lines=experiment.ordering.lines,
            ),
            self._command(create),
        )

    def _command(self, message: messages.Message) -> Effect:
        return Publish(
            topology.COMMANDS.name,
            topology.MANAGER_COMMANDS_QUEUE.name,
            message,
            mandatory=True,
            reply_to=self.replies.name,
        )

    def _received(self, state: ClientState, message: messages.Message) -> ClientResult:
        experiment = self.experiment
        match message:
            case messages.VmCreated() if state.phase == "creating":
                destroy = messages.DestroyVm(vm=experiment.vm, ordering=experiment.ordering)
                return replace(state, phase="destroying"), (self._command(destroy),)
            case messages.VmDestroyed(outcome="stuck") if state.phase == "destroying":
                after, effects = self._look(replace(state, phase="settling", patient=True))
                return after, (SetTimer(STUCK_TIMER, STUCK_MS), *GAPS_BOUND, *effects)
            case messages.VmDestroyed() if state.phase == "destroying":
                after, effects = self._look(replace(state, phase="settling"))
                return after, (*GAPS_BOUND, *effects)
            case messages.Refused() if state.phase in ("creating", "destroying"):
                refused = replace(state, refusal=message.code, why=message.why)
                return self._finish(refused, "refused")
            case messages.VmRemoved() if state.phase == "removing":
                return self._done(state)
            case _:
                return state, ()

    def _look(self, state: ClientState) -> ClientResult:
        """Go on when the history has what the present phase waits for."""
        ended = self.collector.quiet or not state.patient
        whole = not self.collector.has_gaps or not state.hopeful
        if state.phase == "settling" and self.collector.settled and ended and whole:
            return self._finish(state, "settled")
        if state.phase == "closing" and self.collector.has_finished:
            return self._remove(state)
        return state, ()

    def _finish(self, state: ClientState, outcome: RunOutcome) -> ClientResult:
        if state.outcome is not None:
            return state, ()
        finished = observed(Event.RUN_FINISHED, self.experiment.vm, outcome=outcome)
        if outcome in ("timed-out-alive", "timed-out", "lost"):
            finished = observed(
                Event.RUN_FINISHED,
                self.experiment.vm,
                outcome=outcome,
                timeout_ms=self.experiment.timeout_ms,
                missing=self.who_is_missing()[:MISSING_MAX],
            )
        after = replace(state, phase="closing", outcome=outcome)
        timers = (TIMEOUT_TIMER, STUCK_TIMER, GAPS_TIMER)
        return after, (*(CancelTimer(name) for name in timers), finished)

    def _remove(self, state: ClientState) -> ClientResult:
        if not self.experiment.remove:
            return self._done(state)
        remove = messages.RemoveVm(vm=self.experiment.vm)
        timer = SetTimer(REMOVAL_TIMER, REMOVAL_MS)
        return replace(state, phase="removing"), (self._command(remove), timer)

    def _done(self, state: ClientState) -> ClientResult:
        closed = (CancelTimer(REMOVAL_TIMER), DeleteQueue(self.replies.name))
        return replace(state, phase="done"), closed


def _is_waiting(state: ClientState) -> bool:
    return state.phase in ("creating", "destroying", "settling")

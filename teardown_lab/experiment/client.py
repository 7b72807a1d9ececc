"""The client of one run, as a core: creates a VM, destroys it, waits until all is accounted for.

It runs under either driver beside the services, as a ClientActor, which collects the history.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from teardown_lab.experiment.standing import (
    Around,
    ClientState,
    HistoryRead,
    Lost,
    RunOutcome,
    ToldClient,
    ending,
)
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
    Leaving,
    MailboxGone,
    Publish,
    Received,
    Returned,
    SetTimer,
    Started,
    TimerFired,
    TookOver,
    observed,
)
from vm_protocol.observations import Event
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

BEGIN_TIMER = "run-begin"
TIMEOUT_TIMER = "run-timeout"

MISSING_MAX = 4
"""How many of those who are gone a history names."""

REMOVAL_TIMER = "run-removal"
STUCK_TIMER = "run-stuck"
STUCK_MS = limits.FENCE_MS + limits.REQUEST_MS
"""How long a stuck teardown's other commands may take: the default waits of a fence and a flush."""

GAPS_TIMER = "run-gaps"
GAPS_MS = 4 * limits.CONFIRM_MS_MAX
"""How long missing records are waited for: a silent session is given up in half of it."""

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


ClientResult = tuple[ClientState, tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class Client:
    """The client as a core; ClientActor tells it what comes from no broker."""

    experiment: Experiment

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

    def step(self, state: ClientState, event: Input | ToldClient) -> ClientResult:
        """Return the state after an input, and its effects (vm_protocol.effects.Core)."""
        after, effects = self._take(state, event)
        if after.outcome is None and (outcome := ending(after)) is not None:
            after, more = self._finish(after, outcome)
            effects += more
        elif after.phase == "closing" and after.history.has_finished:
            after, more = self._remove(after)
            effects += more
        if isinstance(event, Received):
            effects += (Ack(event.queue, event.message_id),)
        return after, effects

    def _take(self, state: ClientState, event: Input | ToldClient) -> ClientResult:
        """Take note of an input; whether the run is over then is not decided here."""
        match event:
            case Started():
                return state, self._begin()
            case Received():
                return self._received(state, event.message)
            case HistoryRead():
                return replace(state, history=event), ()
            case Around() if state.phase == "asking":
                return replace(state, given_up=event), ()
            case Lost() if state.is_waiting:
                return replace(state, given_up=event), ()
            case TimerFired():
                return self._fired(state, event.name)
            case Around() | Lost() | JournalRead() | Returned():
                return state, ()  # a returned command gets no answer: time-out or loss
            case MailboxGone() | DeadLettered() | TookOver() | Leaving():
                return state, ()  # these never come here
            case _:
                assert_never(event)

    def _fired(self, state: ClientState, timer: str) -> ClientResult:
        if timer == BEGIN_TIMER:
            return state, self._create()
        if timer == TIMEOUT_TIMER and state.is_waiting:
            return replace(state, phase="asking"), ()
        if timer == STUCK_TIMER:
            return replace(state, patient=False), ()
        if timer == GAPS_TIMER:
            return replace(state, hopeful=False), ()
        return self._done(state) if timer == REMOVAL_TIMER else (state, ())

    def _begin(self) -> tuple[Effect, ...]:
        """Consume, and only then send CreateVm (a timer of 0 ms): no record of the VM is missed."""
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
            case messages.VmDestroyed() if state.phase == "destroying":
                is_stuck = message.outcome == "stuck"
                stuck = (SetTimer(STUCK_TIMER, STUCK_MS),) if is_stuck else ()
                after = replace(state, phase="settling", patient=is_stuck)
                return after, (*stuck, SetTimer(GAPS_TIMER, GAPS_MS))
            case messages.Refused() if state.phase in ("creating", "destroying"):
                return replace(state, refusal=message.code, why=message.why), ()
            case messages.VmRemoved() if state.phase == "removing":
                return self._done(state)
            case _:
                return state, ()

    def _finish(self, state: ClientState, outcome: RunOutcome) -> ClientResult:
        finished = observed(Event.RUN_FINISHED, self.experiment.vm, outcome=outcome)
        if state.given_up is not None:
            finished = observed(
                Event.RUN_FINISHED,
                self.experiment.vm,
                outcome=outcome,
                timeout_ms=self.experiment.timeout_ms,
                missing=state.given_up.missing[:MISSING_MAX],
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

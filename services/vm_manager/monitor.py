"""DeadLetterMonitor: the pure core that classifies dead letters and links them to their chains.

It reads the journal beside the dead letters, and the two arrive independently. But a reject's
record is confirmed before the reject is sent, so it stands in the journal before anything that the
monitor writes after the letter has arrived. A letter whose record is not read yet therefore waits
until the monitor reads its own `dead_letter.arrived`: by then it has read the record, if there is
one.
"""

from dataclasses import dataclass, field, replace
from typing import assert_never

from vm_manager import letters
from vm_manager.history_index import READ_BY_INDEX, DeathKey, HistoryIndex
from vm_manager.open_requests import READ_BY_OPEN_REQUESTS, OpenRequests
from vm_manager.repeats import Repeats
from vm_protocol import limits, topology
from vm_protocol.effects import (
    Ack,
    CancelTimer,
    Consume,
    DeadLettered,
    Effect,
    Input,
    JournalRead,
    Leaving,
    MailboxGone,
    Received,
    Returned,
    SetTimer,
    Started,
    TimerFired,
    TookOver,
    observed,
)
from vm_protocol.errors import LocalProtocolError
from vm_protocol.observations import Event
from vm_protocol.timers import TimerKind, parse_timer
from vm_protocol.trust import Role, role_of
from vm_protocol.wire import Record

_OF_MONITORS = frozenset({Event.DEAD_LETTER_ARRIVED})
_TOLD = frozenset({Event.DEAD_LETTER_CLASSIFIED, Event.DEAD_LETTER_REPUBLISHED})
SKIPPED = frozenset(Event) - READ_BY_INDEX - READ_BY_OPEN_REQUESTS - _OF_MONITORS
"""Events whose records the monitor does not read: most of a journal, in the manager's process."""


@dataclass(frozen=True, slots=True)
class MonitorState:
    """The journal's index, requests on their way, and letters that wait.

    Letters wait in their order of arrival, at most DEAD_LETTERS_PREFETCH of them. An earlier
    monitor has reported what was settled before `started_ns`.
    """

    index: HistoryIndex = field(default_factory=HistoryIndex)
    open_requests: OpenRequests = field(default_factory=OpenRequests)
    repeats: Repeats = field(default_factory=Repeats)
    waiting: tuple[DeadLettered, ...] = ()
    started_ns: int = 0


MonitorResult = tuple[MonitorState, tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class DeadLetterMonitor:
    """The monitor's core; `replica` tells its records from those of others.

    Replicas of the manager have a monitor each, and those share the dead letters.
    """

    replica: str = ""

    @property
    def actor(self) -> str:
        """Return the actor's name in the history."""
        return f"{Role.MONITOR}.{self.replica}" if self.replica else str(Role.MONITOR)

    def initial(self) -> MonitorState:
        """Return the state of a monitor that has read nothing."""
        return MonitorState()

    def step(self, state: MonitorState, event: Input) -> MonitorResult:
        """Return the state after an input, and its effects (vm_protocol.effects.Core)."""
        match event:
            case Started():
                begin_ns = max(0, event.at_ns - limits.MONITOR_LOOK_BACK_MS * 1_000_000)
                return replace(state, started_ns=event.at_ns), (
                    Consume(topology.JOURNAL_QUEUE, limits.STREAM_PREFETCH, begin_ns),
                    Consume(topology.DEAD_LETTERS_QUEUE, limits.DEAD_LETTERS_PREFETCH),
                )
            case JournalRead():
                return self._read(state, event)
            case DeadLettered():
                return self._take(state, event)
            case TimerFired():
                return self._waited_long_enough(state, event.name)
            case Leaving() | Received() | Returned() | MailboxGone() | TookOver():
                return state, ()  # who should have got it is gone; the others never come here
            case _:
                assert_never(event)

    def _read(self, state: MonitorState, event: JournalRead) -> MonitorResult:
        index, open_requests, repeats = state.index, state.open_requests, state.repeats
        effects: list[Effect] = []
        reached: set[str] = set()
        for record in event.records:
            repeats, is_repeated = repeats.read(record)
            if is_repeated:
                continue
            # Written by a monitor: what a replica has judged already, or how far we have read.
            if role_of(record.actor) is Role.MONITOR:
                if record.event in _TOLD:
                    index = index.read(record)
                elif self._has_arrived(state, record):
                    reached.add(str(record.details.get("letter")))
                continue
            index = index.read(record)
            open_requests, completed = open_requests.read(record)
            # What was completed before our start, an earlier monitor has reported.
            if completed is not None and record.at_ns >= state.started_ns:
                effects.append(completed)
        state = replace(state, index=index, open_requests=open_requests, repeats=repeats)
        for letter in state.waiting:
            if letter.letter in reached or letters.is_told(state.index, letter):
                state, done = self._classify(state, letter)
                effects += done
        return state, tuple(effects)

    def _has_arrived(self, state: MonitorState, record: Record) -> bool:
        """Tell whether a record is our own, of this life, that a letter has arrived."""
        is_ours = record.actor == self.actor and record.at_ns >= state.started_ns
        return is_ours and record.event == Event.DEAD_LETTER_ARRIVED

    def _take(self, state: MonitorState, letter: DeadLettered) -> MonitorResult:
        if letter.message is None or letters.is_told(state.index, letter):
            return self._classify(state, letter)
        # The timer is for a journal that cannot be read; else our own record comes back first.
        timer = SetTimer(TimerKind.LETTER.of(letter.letter), limits.MONITOR_HISTORY_MS)
        vm, vcpu = letters.vm_of(letter), letters.vcpu_of(letter)
        arrived = observed(Event.DEAD_LETTER_ARRIVED, vm, vcpu, letter=letter.letter)
        return replace(state, waiting=(*state.waiting, letter)), (timer, arrived)

    def _waited_long_enough(self, state: MonitorState, name: str) -> MonitorResult:
        timer = parse_timer(name)
        if timer.kind is not TimerKind.LETTER:
            raise LocalProtocolError(f"{name}: a monitor sets no such timer")
        letter = next((each for each in state.waiting if each.letter == timer.about), None)
        return (state, ()) if letter is None else self._classify(state, letter)

    def _classify(self, state: MonitorState, letter: DeadLettered) -> MonitorResult:
        effects: list[Effect] = []
        if letter in state.waiting:
            waiting = tuple(other for other in state.waiting if other != letter)
            state = replace(state, waiting=waiting)
            effects.append(CancelTimer(TimerKind.LETTER.of(letter.letter)))
        vm = letters.vm_of(letter)
        index = state.index.of(vm)
        invariant, why = letters.judge(index, letter)
        ack = Ack(topology.DEAD_LETTERS_QUEUE.name, letter.letter)
        sending = letters.sending_of(index, letter)
        if letter.reason == "delivery_limit" and sending is not None and not index.removed:
            # The worker rejected it each time: sending it again would end in the same way.
            if why != letters.CONNECTIONS_LOST:
                effects += letters.tell(letter, sending, why)
            # Lost connections are nobody's fault, so the command gets one more chance.
            elif not letters.is_republished(index, letter):
                said = letters.republish(letter, sending)
                return self._noted(state, letter, None), (*effects, *said, ack)
            elif role_of(letter.sender) is not Role.MONITOR:
                # Sent again already; that copy has a letter of its own if it dies.
                return state, (*effects, ack)
            else:
                effects += letters.tell(letter, sending, why)
        if letters.is_counted(index, letter, why):
            return state, (*effects, ack)
        told = letters.classified(index, letter, invariant, why)
        return self._noted(state, letter, letters.death_of(letter, why)), (*effects, told, ack)

    def _noted(
        self, state: MonitorState, letter: DeadLettered, death: DeathKey | None
    ) -> MonitorState:
        """Return the state with a letter noted as handled, ahead of reading that in the journal.

        It was republished, or else classified as this death.
        """
        vm = letters.vm_of(letter)
        index = state.index.of(vm)
        if death is None:
            delivery = (letter.message_id, letter.queue)
            index = replace(index, republished=index.republished.set(delivery, None))
        else:
            index = replace(index, classified=index.classified.set(death, None))
        return replace(state, index=state.index.tell(vm, index))

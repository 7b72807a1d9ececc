"""DeadLetterMonitor: the pure core that tells dead letters apart and links them to their chains.

It reads the journal beside the dead letters. A reject's record is confirmed before the reject goes
out, so it stands before whatever the monitor writes when the letter has arrived: a letter whose
record is not read yet waits until the monitor reads its own `dead_letter.arrived`.
"""

from dataclasses import dataclass, field, replace

from vm_manager.history_index import READ_BY_INDEX, Death, HistoryIndex, VmIndex
from vm_manager.open_requests import READ_BY_OPEN_REQUESTS, OpenRequests
from vm_manager.repeats import Repeats
from vm_protocol import limits, messages, topology
from vm_protocol.effects import (
    Ack,
    CancelTimer,
    Consume,
    DeadLettered,
    Effect,
    Input,
    JournalRead,
    Observed,
    Publish,
    SetTimer,
    Started,
    TimerFired,
    observed,
)
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event
from vm_protocol.topology import parse_mailbox
from vm_protocol.wire import Record

CONNECTIONS_LOST = "connections-lost"
"""Why a message reached its delivery limit when nobody has rejected it."""

_INVARIANTS: dict[str, str] = {
    RejectReason.FREED: "use-after-free",
    RejectReason.DOUBLE_FREE: "double-free",
    RejectReason.VM_STATE_FREED: "vm-state-used-after-free",
}
"""Reject reason -> broken invariant; the reasons that are not here break none.

A fence that was not reached says only that somebody was slow, or gone; so does what nobody took.
"""


MONITOR = "monitor"

_OF_MONITORS = frozenset({Event.DEAD_LETTER_ARRIVED, Event.DEAD_LETTER_CLASSIFIED})
SKIPPED = frozenset(Event) - READ_BY_INDEX - READ_BY_OPEN_REQUESTS - _OF_MONITORS
"""Most records of a journal are of no use to the monitor, which shares the manager's process."""


@dataclass(frozen=True, slots=True)
class MonitorState:
    """The journal's index, requests on their way, and letters that wait.

    Letters wait in their order of arrival, at most DEAD_LETTERS_PREFETCH of them. What was settled
    before `started_ns` an earlier monitor has told.
    """

    index: HistoryIndex = field(default_factory=HistoryIndex)
    open_requests: OpenRequests = field(default_factory=OpenRequests)
    repeats: Repeats = field(default_factory=Repeats)
    waiting: tuple[DeadLettered, ...] = ()
    started_ns: int = 0


Result = tuple[MonitorState, tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class DeadLetterMonitor:
    """The monitor's core; `epoch` names the manager that is told of stuck commands.

    Replicas of the manager have a monitor each, which share the dead letters: `replica` tells
    their records apart.
    """

    epoch: int = limits.MANAGER_EPOCH
    replica: str = ""

    @property
    def actor(self) -> str:
        """Return the actor's name in the history."""
        return f"{MONITOR}.{self.replica}" if self.replica else MONITOR

    def initial(self) -> MonitorState:
        """Return the state of a monitor that has read nothing."""
        return MonitorState()

    def step(self, state: MonitorState, event: Input) -> Result:
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
                due = (letter for letter in state.waiting if letter.letter == event.name)
                letter = next(due, None)
                return (state, ()) if letter is None else self._classify(state, letter)
            case _:
                return state, ()

    def _read(self, state: MonitorState, event: JournalRead) -> Result:
        index, open_requests, repeats = state.index, state.open_requests, state.repeats
        effects: list[Effect] = []
        reached: set[str] = set()
        for record in event.records:
            repeats, is_repeated = repeats.read(record)
            if is_repeated:
                continue
            if record.actor.partition(".")[0] == MONITOR:
                if record.event == Event.DEAD_LETTER_CLASSIFIED:
                    index = index.read(record)
                elif self._has_arrived(state, record):
                    reached.add(str(record.details.get("letter")))
                continue
            index = index.read(record)
            open_requests, completed = open_requests.read(record)
            if completed is not None and record.at_ns >= state.started_ns:
                effects.append(completed)
        state = replace(state, index=index, open_requests=open_requests, repeats=repeats)
        for letter in state.waiting:
            if letter.letter in reached or _is_told(state.index, letter):
                state, done = self._classify(state, letter)
                effects += done
        return state, tuple(effects)

    def _has_arrived(self, state: MonitorState, record: Record) -> bool:
        """Tell whether a record is our own, of this life, that a letter has arrived."""
        is_ours = record.actor == self.actor and record.at_ns >= state.started_ns
        return is_ours and record.event == Event.DEAD_LETTER_ARRIVED

    def _take(self, state: MonitorState, letter: DeadLettered) -> Result:
        if letter.message is None or _is_told(state.index, letter):
            return self._classify(state, letter)
        timer = SetTimer(letter.letter, limits.MONITOR_HISTORY_MS)
        vm, vcpu = _vm_of(letter), _vcpu_of(letter)
        arrived = observed(Event.DEAD_LETTER_ARRIVED, vm, vcpu, letter=letter.letter)
        return replace(state, waiting=(*state.waiting, letter)), (timer, arrived)

    def _classify(self, state: MonitorState, letter: DeadLettered) -> Result:
        effects: list[Effect] = []
        if letter in state.waiting:
            waiting = tuple(other for other in state.waiting if other != letter)
            state = replace(state, waiting=waiting)
            effects.append(CancelTimer(letter.letter))
        index = state.index.of(_vm_of(letter))
        invariant, why = _judge(index, letter)
        ack = Ack(topology.DEAD_LETTERS_QUEUE.name, letter.letter)
        message = letter.message
        is_first = letter.sender.partition(".")[0] != MONITOR
        if why == CONNECTIONS_LOST and message is not None and is_first:
            return state, (*effects, *_republish(letter, message), ack)
        if letter.reason == "delivery_limit":
            effects += self._tell(letter, why)
        if _is_counted(index, letter):
            return state, (*effects, ack)
        said = _classified(index, letter, invariant, why)
        state = replace(state, index=state.index.classify(_vm_of(letter), _death(letter)))
        return state, (*effects, said, ack)

    def _tell(self, letter: DeadLettered, why: str) -> tuple[Effect, ...]:
        """Tell whoever waits for a command that it has died at its delivery limit."""
        command = letter.message
        if isinstance(command, messages.DestroyVcpu):
            stuck = messages.CommandStuck(
                vm=command.vm,
                incarnation=command.incarnation,
                vcpu=command.vcpu,
                step=command.step,
                why="connections-lost" if why == CONNECTIONS_LOST else "rejects",
            )
            key = topology.manager_replies(self.epoch).name
            return (Publish(topology.REPLIES.name, key, stuck, mandatory=True),)
        if command is None or letter.reply_to is None or why != CONNECTIONS_LOST:
            return ()
        refused = messages.Refused(
            vm=command.vm,
            incarnation=command.incarnation,
            code="connections-lost",
            command=letter.message_id,
        )
        key, about = letter.reply_to, letter.message_id
        return (Publish(topology.REPLIES.name, key, refused, correlation_id=about),)


def _vm_of(letter: DeadLettered) -> str | None:
    mailbox = parse_mailbox(letter.queue)
    if mailbox is not None:
        return mailbox.vm
    return letter.message.vm if letter.message else None


def _vcpu_of(letter: DeadLettered) -> int | None:
    mailbox = parse_mailbox(letter.queue)
    return mailbox.vcpu if mailbox else getattr(letter.message, "vcpu", None)


def _death(letter: DeadLettered) -> Death:
    return letter.message_id, letter.queue, letter.reason


def _is_counted(index: VmIndex, letter: DeadLettered) -> bool:
    """Tell whether this death was told before: its Ack, or a publish's confirm, was lost.

    A request is in a mailbox once; of other messages, two of one id are two letters.
    """
    is_one = letter.redelivered or isinstance(letter.message, messages.REQUEST_TYPES)
    return letter.message is not None and is_one and _death(letter) in index.classified


def _is_told(index: HistoryIndex, letter: DeadLettered) -> bool:
    """Tell whether what was read says all about a letter.

    Of one that was delivered before, another monitor may have told, further on in the journal.
    """
    return not letter.redelivered and _recorded(index.of(_vm_of(letter)), letter)


def _recorded(index: VmIndex, letter: DeadLettered) -> bool:
    """Tell whether the history already says how this letter came about."""
    if letter.reason == "rejected":
        return (letter.message_id, letter.queue) in index.rejects
    if letter.reason == "delivery_limit":
        return letter.message_id in index.requeues
    return letter.message_id in index.causes


def _judge(index: VmIndex, letter: DeadLettered) -> tuple[str | None, str]:
    """Return the broken invariant, if any, and why (docs/orderings.md)."""
    if letter.message is None:
        return None, letter.wrong or RejectReason.MALFORMED
    if letter.reason == "rejected":
        why = index.rejects.get((letter.message_id, letter.queue), "unrecorded")
        return _INVARIANTS.get(why), why
    if letter.reason == "delivery_limit":
        rejected = letter.message_id in index.requeues
        return ("stuck", RejectReason.ROOTS_PINNED) if rejected else (None, CONNECTIONS_LOST)
    return None, letter.reason


def _classified(index: VmIndex, letter: DeadLettered, invariant: str | None, why: str) -> Observed:
    vcpu = _vcpu_of(letter)
    freed_by = index.freed_by.get(vcpu) if vcpu is not None else None
    allocated_by = index.allocated_by.get(vcpu) if vcpu is not None else None
    return Observed(
        Event.DEAD_LETTER_CLASSIFIED,
        _vm_of(letter),
        vcpu,
        message_id=letter.message_id,
        details=(
            ("reason", letter.reason),
            ("queue", letter.queue),
            ("invariant", invariant),
            ("why", why),
            ("used_by", index.chain(letter.message_id)),
            ("freed_by", index.chain(freed_by)),
            ("allocated_by", index.chain(allocated_by)),
        ),
    )


def _republish(letter: DeadLettered, message: messages.Message) -> tuple[Effect, ...]:
    again = Publish(
        letter.exchange, letter.routing_key, message, mandatory=True, reply_to=letter.reply_to
    )
    said = Observed(
        Event.DEAD_LETTER_REPUBLISHED,
        message.vm,
        _vcpu_of(letter),
        message_id=letter.message_id,
        details=(("queue", letter.queue),),
    )
    return again, said

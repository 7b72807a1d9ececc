"""What a manager that takes over makes of the log: the state, and what to perform again; pure.

The log is folded through the actor as its predecessors have stepped it, so numbers, Lamport times
and ids come out the same. Nothing is performed meanwhile (docs/recovery.md).
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from vm_protocol import limits, progress
from vm_protocol.actor import Actor, Plan
from vm_protocol.effects import (
    Bind,
    CancelTimer,
    Consume,
    DeclareMailbox,
    DeleteMailbox,
    DeleteQueue,
    SetTimer,
    StopConsuming,
    TimerFired,
    Unbind,
)
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.progress import NOWHERE, Arrival, Elected, Happened, LogEntry, Position
from vm_protocol.recorder import Cause, Recorder
from vm_protocol.topology import Mailbox
from vm_protocol.trust import manager_actor

Binding = Literal["not yet", "bound", "unbound"]


WAY_OUT: Final = (
    "was it written by another version, or under other *_USERS? Let that one end the VMs that "
    "live, or remove their queues (`teardown cleanup`), delete the queue teardown.progress, and "
    "start again"
)


class LogBroken(Exception):
    """The log lacks what a manager needs to know of the VMs that live."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An entry that nobody has noted as performed, and what was asked for in it."""

    position: Position
    plans: tuple[Plan, ...]


@dataclass(slots=True)
class Recovery:
    """Folds a log from `begin` (an offset) on, message by message, through an actor.

    The first entry that is folded is `alive`: `begin` may stand before it, for foreign messages
    count as well. If an epoch after it begins first, that entry was never written.

    Afterwards the actor has the state of the last entry; `pending` are the entries to be performed
    again, `bindings` how mailboxes are bound before that; `consumed` and `timers` are what the
    actor consumes, and the timers that are set, after all. `ended` are (epoch, last entry, number
    of its next record) of those who were elected before.

    Messages of one epoch may stand in another order, as one that the broker refuses is published
    again: they are folded by their numbers. What an epoch has written behind the next Elected was
    never performed, and is skipped.
    """

    actor: Actor[Any]
    begin: int
    alive: Position = NOWHERE
    epoch: int = 0
    last: int = 0
    alive_from: int = 0
    performed: Position = NOWHERE
    entry_count: int = 0
    ended: list[tuple[int, int, int]] = field(default_factory=list)
    pending: deque[Pending] = field(default_factory=deque)
    bindings: dict[Mailbox, Binding] = field(default_factory=dict)
    consumed: dict[str, Consume] = field(default_factory=dict)
    timers: dict[str, tuple[SetTimer, Cause]] = field(default_factory=dict)
    _early: dict[int, LogEntry] = field(default_factory=dict)
    _has_begun: bool = False

    @property
    def repeated_count(self) -> int:
        """Return how many entries are performed again; one without inputs asks for nothing."""
        return sum(bool(each.plans) for each in self.pending)

    def __post_init__(self) -> None:
        self.actor.begin_anew()

    def begins(self, offset: int) -> None:
        """Take note of the first offset that is left of the log; later ones change nothing.

        Raises:
            LogBroken: The log begins later than it should; says what to do.
        """
        if not self._has_begun and offset > self.begin:
            raise LogBroken(
                f"the log holds nothing before offset {offset}, and VMs may live that were created "
                f"at {self.begin}: it was cut by its bound ({limits.PROGRESS_BYTES_MAX} bytes), or "
                "deleted. Remove those VMs' queues (`teardown cleanup`), delete the queue "
                "teardown.progress, and start the manager again; next time raise the queue's bound"
            )
        self._has_begun = True

    def read(self, offset: int, message: Elected | LogEntry) -> None:
        """Take the next message."""
        if isinstance(message, Elected):
            epoch = progress.epoch_at(offset)
            if self.epoch or epoch > self.alive[0]:
                self._elect(epoch)
        elif self.epoch:
            if message.epoch == self.epoch:
                self._take(message)
        elif message.epoch == self.alive[0] and message.number >= self.alive[1]:
            self._early[message.number] = message
            if message.number == self.alive[1]:
                self._begin_at(message)

    def _elect(self, epoch: int) -> None:
        if self.epoch:
            self.ended.append((self.epoch, self.last, self.actor.recorder.position[0]))
        self._early.clear()
        self.epoch, self.last = epoch, 0
        self._hold_office((0, self.actor.recorder.position[1]))

    def _hold_office(self, position: tuple[int, int]) -> None:
        recorder = Recorder(manager_actor(self.epoch), self.epoch)
        recorder.go_to(position)
        known = self.ended[-limits.ENDED_EPOCHS_MAX :]
        recorder.ended = ",".join(f"{epoch}:{entry}" for epoch, entry, _ in known) or None
        self.actor.recorder = recorder

    def _begin_at(self, entry: LogEntry) -> None:
        """Begin in the middle of an epoch, at a moment when no VM lived."""
        self.epoch, self.last = entry.epoch, entry.number - 1
        self._hold_office((entry.seq, entry.lamport))
        self._take(entry)

    def _take(self, entry: LogEntry) -> None:
        self._early[entry.number] = entry
        while (following := self._early.pop(self.last + 1, None)) is not None:
            self._fold(following)

    def _fold(self, entry: LogEntry) -> None:
        self.last = entry.number
        self.alive_from, self.alive = entry.alive_from, entry.alive
        self.entry_count += 1
        recorder = self.actor.recorder
        if recorder.position != (entry.seq, entry.lamport):
            raise LogBroken(
                f"entry {entry.number} of epoch {entry.epoch} was written at record {entry.seq}, "
                f"Lamport time {entry.lamport}; the fold stands at {recorder.position}: {WAY_OUT}"
            )
        recorder.entry = entry.number
        try:
            plans = tuple(self._step(progress.arrival(line)) for line in entry.inputs)
        except RemoteProtocolError as error:
            where = f"entry {entry.number} of epoch {entry.epoch}"
            raise LogBroken(f"{where}: {error}: {WAY_OUT}") from None
        self.pending.append(Pending(entry.position, plans))
        self.performed = max(self.performed, entry.performed)
        while self.pending and self.pending[0].position <= self.performed:
            self._note_bindings(self.pending.popleft().plans)

    def _step(self, arrival: Arrival) -> Plan:
        if isinstance(arrival, Happened) and isinstance(arrival.event, TimerFired):
            self.timers.pop(arrival.event.name, None)
        plan = progress.step(self.actor, arrival)
        for action in plan.actions:
            match action:
                case SetTimer(name):
                    self.timers[name] = (action, plan.cause)
                case CancelTimer(name):
                    self.timers.pop(name, None)
                case Consume(queue):
                    self.consumed[queue.name] = action
                case StopConsuming(queue) | DeleteQueue(queue):
                    self.consumed.pop(queue, None)
                case _:
                    pass
        return plan

    def _note_bindings(self, plans: tuple[Plan, ...]) -> None:
        for plan in plans:
            for action in plan.actions:
                match action:
                    case DeclareMailbox(mailbox):
                        self.bindings[mailbox] = "not yet"
                    case Bind(mailbox):
                        self.bindings[mailbox] = "bound"
                    case Unbind(mailbox):
                        self.bindings[mailbox] = "unbound"
                    case DeleteMailbox(mailbox):
                        self.bindings.pop(mailbox, None)
                    case _:
                        pass

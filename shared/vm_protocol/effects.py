"""Inputs and effects: all that a core sees, and all that it may ask for.

Effects run in order; the next starts only after a declare, bind or unbind is answered, so that a
publish cannot overtake an unbind. An Ack or Reject waits until every publish of its handler, its
records included, is confirmed.
"""

from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeVar

from vm_protocol.errors import LocalProtocolError, RejectReason
from vm_protocol.messages import Message
from vm_protocol.observations import EVENTS, Detail, Event
from vm_protocol.topology import Mailbox, Queue
from vm_protocol.wire import Record

# --- inputs ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The driver begins, at this time in nanoseconds; the core says what it consumes."""

    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Leaving:
    """The service is told to end; a core that has to finish something begins to do so."""


@dataclass(frozen=True, slots=True)
class Received:
    """A valid message from `queue`; `reply_to` names the queue of the sender's choice.

    `sender` is the actor that the message names, which a user that is one worker cannot forge. A
    manager's message comes from an `entry` of its epoch's log, and names the (epoch, last entry) of
    epochs that have `ended`.
    """

    queue: str
    message: Message
    message_id: str
    epoch: int
    reply_to: str | None = None
    redelivered: bool = False
    sender: str = ""
    entry: int = 0
    ended: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that the core has set is due."""

    name: str


@dataclass(frozen=True, slots=True)
class Returned:
    """A mandatory message matched no queue (RabbitMQ: publishers, `basic.return`)."""

    message: Message


@dataclass(frozen=True, slots=True)
class TookOver:
    """A manager has taken over from the one of epoch `predecessor`, which got as far as `entry`.

    `seq` is the number of that one's next record, `repeated` how many entries are performed again.
    """

    predecessor: int
    entry: int
    seq: int
    repeated: int


@dataclass(frozen=True, slots=True)
class MailboxGone:
    """A consumed mailbox was deleted (RabbitMQ: consumer-cancel)."""

    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A delivery of the dead-letter queue.

    `reason` and `queue` come from the newest `x-death` entry; `message` is None when the body is no
    message of this protocol (`wrong` then is the code); `letter` names this delivery for Ack.
    `redelivered` tells that somebody may have judged it before; `sender` is the message's.
    """

    letter: str
    reason: str
    queue: str
    message_id: str
    message: Message | None = None
    wrong: str | None = None
    redelivered: bool = False
    sender: str = ""


@dataclass(frozen=True, slots=True)
class JournalRead:
    """A batch of the journal, in the order of the stream."""

    records: tuple[Record, ...]


Input = (
    Started
    | Leaving
    | TookOver
    | Received
    | TimerFired
    | Returned
    | MailboxGone
    | DeadLettered
    | JournalRead
)

# --- effects -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish `message`; `mandatory` where its loss must be seen."""

    exchange: str
    routing_key: str
    message: Message
    mandatory: bool = False
    reply_to: str | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Consume:
    """Declare a queue with its bindings, and consume it with at most `prefetch` unsettled.

    A stream's reader begins at its first record, at the next one, or at about a time, in
    nanoseconds since 1970: rather before it (RabbitMQ: streams).
    """

    queue: Queue
    prefetch: int
    begin: Literal["first", "next"] | int = "first"


@dataclass(frozen=True, slots=True)
class StopConsuming:
    """Cancel the consumer of a queue; deliveries that it has not settled stay with it."""

    queue: str


@dataclass(frozen=True, slots=True)
class DeclareMailbox:
    """Declare a vCPU's mailbox."""

    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class ConsumeMailbox:
    """Consume a mailbox that the manager has declared."""

    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class DeleteMailbox:
    """Delete a mailbox with all that is in it; nothing of it is dead-lettered."""

    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class DeleteQueue:
    """Delete a queue that is this actor's own."""

    queue: str


@dataclass(frozen=True, slots=True)
class Bind:
    """Make a vCPU visible: bind its mailbox to `vm.requests` with the VM's key."""

    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class Unbind:
    """Hide a vCPU: undo its Bind."""

    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class Ack:
    """Acknowledge every held delivery of this message from this queue."""

    queue: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Reject every held delivery of this message from this queue (RabbitMQ: `basic.reject`)."""

    queue: str
    message_id: str
    reason: RejectReason
    requeue: bool = False


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Ask for `TimerFired(name)` after `delay_ms`; a timer of that name is replaced.

    A `quiet` timer measures only time in which nothing reaches this actor: each delivery begins it
    anew. When it fires, the actor was idle for that long, and not merely slow because the machine
    is busy. With `of`, a `voice`, only that one's deliveries begin it anew.

    An `urgent` timer that is due is handled before whatever has arrived meanwhile.
    """

    name: str
    delay_ms: int
    quiet: bool = False
    of: str = ""
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget a timer; unknown names are fine."""

    name: str


@dataclass(frozen=True, slots=True)
class Observed:
    """Say what happened; it becomes a record, a log line and metrics."""

    event: Event
    vm: str | None = None
    vcpu: int | None = None
    step: str | None = None
    message_id: str | None = None
    details: tuple[tuple[str, Detail], ...] = ()


_DETAILS: Final = {event: frozenset(meaning.details) for event, meaning in EVENTS.items()}


def observed(
    event: Event,
    vm: str | None = None,
    vcpu: int | None = None,
    step: str | None = None,
    **details: Detail,
) -> Observed:
    """Return an Observed with its details in the order given.

    Raises:
        LocalProtocolError: A detail is none of those that EVENTS lists for this event.
    """
    if not details.keys() <= _DETAILS[event]:
        raise LocalProtocolError(f"{event}: unknown details among {sorted(details)}")
    return Observed(event, vm, vcpu, step, None, tuple(details.items()))


Settle = Ack | Reject

Deed = (
    Consume
    | StopConsuming
    | DeclareMailbox
    | ConsumeMailbox
    | DeleteMailbox
    | DeleteQueue
    | Bind
    | Unbind
    | SetTimer
    | CancelTimer
)
"""What a driver performs as it is; a Publish is made a Send first, and an Observed a record."""

Effect = Publish | Settle | Deed | Observed

CoreState = TypeVar("CoreState")


class Core(Protocol[CoreState]):
    """A service as a pure function; both drivers run it, and hold nothing else of it."""

    @property
    def actor(self) -> str:
        """Return the name under which its records and messages go out."""
        ...

    def initial(self) -> CoreState:
        """Return the state before `Started`; frozen and hashable."""
        ...

    def step(self, state: CoreState, event: Input) -> tuple[CoreState, tuple[Effect, ...]]:
        """Return the state after an input, and what it asks for."""
        ...

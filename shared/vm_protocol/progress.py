"""The managers' log: what its messages say, and how an input is written and read again; pure.

A manager's state is a fold over its inputs. So the log holds the inputs as they came, each with the
time at which it was handled, and nothing that a core makes of them (docs/recovery.md).
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vm_protocol import limits
from vm_protocol.actor import Actor, Plan
from vm_protocol.codec import HEADERS, SCHEMA_HEADER, Packet
from vm_protocol.effects import Input, MailboxGone, Returned, Started, TimerFired, TookOver
from vm_protocol.errors import LocalProtocolError, RejectReason, RemoteProtocolError
from vm_protocol.intake import Delivery
from vm_protocol.messages import MESSAGES
from vm_protocol.recorder import NO_CAUSE, Cause
from vm_protocol.topology import Mailbox

Position = tuple[int, int]
"""An entry: (epoch, its number in that epoch, from 1 on)."""

NOWHERE: Final[Position] = (0, 0)

# --- inputs as they come, with their time ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery is handled, at this time in nanoseconds."""

    delivery: Delivery
    at_ns: int


@dataclass(frozen=True, slots=True)
class Happened:
    """Anything else is handled: a start, a take-over, a timer, a return, a mailbox that is gone."""

    event: Input
    at_ns: int
    cause: Cause = NO_CAUSE


Arrival = Delivered | Happened


def step(actor: Actor[Any], arrival: Arrival) -> Plan:
    """Step an actor with an input, for the first time or again: the plan is the same."""
    if isinstance(arrival, Delivered):
        return actor.deliver(arrival.delivery, arrival.at_ns)
    return actor.handle(arrival.event, arrival.cause, arrival.at_ns)


# --- inputs as they are written --------------------------------------------------------------


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LoggedDelivery(_Line):
    """A delivery; its body is text, or base64, or too long for any message and only counted."""

    input: Literal["delivery"]
    at_ns: int
    queue: str
    number: int
    redelivered: bool
    text: str | None = None
    base64: str | None = None
    bytes_count: int = 0
    properties: dict[str, Any]
    headers: dict[str, Any]
    unreadable: str | None = None


class LoggedEvent(_Line):
    """A start, a take-over, a timer, a return, or a mailbox that is gone; `about` names what."""

    input: Literal["started", "took-over", "fired", "returned", "gone"]
    at_ns: int
    about: str = ""
    cause: tuple[str | None, str | None, int, str | None] = (None, None, 0, None)


Logged = Annotated[LoggedDelivery | LoggedEvent, Field(discriminator="input")]
_READ_PROPERTIES: Final = ("message_id", "correlation_id", "reply_to", "type", "user_id")
_READ_HEADERS: Final = (SCHEMA_HEADER, *HEADERS.values())


def logged(arrival: Arrival) -> LoggedDelivery | LoggedEvent:
    """Return an input as it is written.

    Raises:
        LocalProtocolError: A manager gets no such input.
    """
    if isinstance(arrival, Delivered):
        return _logged_delivery(arrival.delivery, arrival.at_ns)
    at_ns, cause = arrival.at_ns, arrival.cause
    origin = (cause.message_id, cause.traceparent, cause.lamport, cause.type)
    match arrival.event:
        case Started(started_ns):
            return LoggedEvent(input="started", at_ns=at_ns, about=str(started_ns), cause=origin)
        case TookOver(predecessor, entry, seq, repeated):
            about = f"{predecessor}/{entry}/{seq}/{repeated}"
            return LoggedEvent(input="took-over", at_ns=at_ns, about=about, cause=origin)
        case TimerFired(name):
            return LoggedEvent(input="fired", at_ns=at_ns, about=name, cause=origin)
        case Returned(message):
            body = message.model_dump_json()
            return LoggedEvent(input="returned", at_ns=at_ns, about=body, cause=origin)
        case MailboxGone(mailbox):
            about = f"{mailbox.vm}/{mailbox.vcpu}/{mailbox.incarnation}"
            return LoggedEvent(input="gone", at_ns=at_ns, about=about, cause=origin)
        case other:
            raise LocalProtocolError(f"a manager gets no {type(other).__name__}")


def _logged_delivery(delivery: Delivery, at_ns: int) -> LoggedDelivery:
    packet = delivery.packet
    text, base64, bytes_count = None, None, 0
    if len(packet.body) > limits.MESSAGE_BYTES_MAX:
        bytes_count = len(packet.body)  # refused for its length, whatever it says
    else:
        try:
            text = packet.body.decode()
        except UnicodeDecodeError:
            base64 = b64encode(packet.body).decode()
    return LoggedDelivery.model_construct(
        input="delivery",
        at_ns=at_ns,
        queue=delivery.queue,
        number=delivery.number,
        redelivered=delivery.redelivered,
        text=text,
        base64=base64,
        bytes_count=bytes_count,
        properties=_plain(packet.properties, _READ_PROPERTIES),
        headers=_plain(packet.headers, _READ_HEADERS),
        unreadable=packet.unreadable,
    )


def _plain(values: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return what of these values JSON can hold, within their bound; no others are ours either.

    An empty list stands for any other: it is refused at the same place.
    """
    found = {name: values[name] for name in names if values.get(name) is not None}
    return {name: value if _is_plain(value) else [] for name, value in found.items()}


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= limits.TEXT_CHARACTERS_MAX
    return isinstance(value, int)


def arrival(line: LoggedDelivery | LoggedEvent) -> Arrival:
    """Return the input that was written.

    Raises:
        RemoteProtocolError: It is none that `logged` writes.
    """
    if isinstance(line, LoggedEvent):
        return Happened(_event(line), line.at_ns, Cause(*line.cause))
    if line.text is not None:
        body = line.text.encode()
    elif line.base64 is not None:
        body = b64decode(line.base64)
    else:
        body = bytes(line.bytes_count)
    packet = Packet(body, line.properties, line.headers, line.unreadable)
    return Delivered(Delivery(line.queue, packet, line.redelivered, line.number), line.at_ns)


def _event(line: LoggedEvent) -> Input:
    try:
        match line.input:
            case "started":
                return Started(int(line.about))
            case "took-over":
                return TookOver(*map(int, line.about.split("/", 3)))
            case "fired":
                return TimerFired(line.about)
            case "returned":
                return Returned(MESSAGES.validate_json(line.about))
            case "gone":
                vm, vcpu, incarnation = line.about.split("/")
                return MailboxGone(Mailbox(vm, int(vcpu), int(incarnation)))
    except ValueError:
        raise RemoteProtocolError(RejectReason.MALFORMED, f"log: {line.input}") from None


# --- messages of the log ----------------------------------------------------------------------


class Elected(_Line):
    """A manager has become active; this message's offset in the stream makes its epoch.

    `candidate` tells the reader that it is its own. `alive_from` is the offset at which a successor
    has to begin, None where this manager did not know it; `alive` is the entry that stands there or
    behind it. Before that entry no VM lived; (0, 0) is the beginning of the log.
    """

    type: Literal["Elected"] = "Elected"
    candidate: str = Field(max_length=limits.TEXT_CHARACTERS_MAX)
    alive_from: int | None = Field(default=None, ge=0)
    alive: Position = NOWHERE


class LogEntry(_Line):
    """Inputs that are handled together, written before anything that follows from them is let out.

    `seq` and `lamport` are where the epoch's recorder stood before them. All effects of the entries
    up to `performed` are confirmed. `alive_from` and `alive` are as in Elected. One without inputs
    only says so.
    """

    type: Literal["LogEntry"] = "LogEntry"
    epoch: int = Field(ge=1)
    number: int = Field(ge=1)
    seq: int = Field(ge=0)
    lamport: int = Field(ge=0)
    performed: Position
    alive_from: int = Field(ge=0)
    alive: Position = NOWHERE
    inputs: tuple[Logged, ...] = ()

    @property
    def position(self) -> Position:
        """Return where it stands."""
        return self.epoch, self.number


_LOG: Final[TypeAdapter[Elected | LogEntry]] = TypeAdapter(
    Annotated[Elected | LogEntry, Field(discriminator="type")]
)


def read_log_message(body: bytes) -> Elected | LogEntry:
    """Return what a message of the log says.

    Raises:
        RemoteProtocolError: It is none of the log's.
    """
    try:
        return _LOG.validate_json(body)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"])
        raise RemoteProtocolError(RejectReason.MALFORMED, f"log: {place}"[:200]) from None


def epoch_at(offset: int) -> int:
    """Return the epoch that begins with the Elected at this offset of the stream.

    One more than the offset, since epoch 0 is that of everybody who is no manager.
    """
    return offset + 1

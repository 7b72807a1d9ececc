"""What travels beside a message: its envelope, and the records of the journal."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from vm_protocol import limits
from vm_protocol.observations import Event

_Text = Annotated[str, Field(max_length=limits.TEXT_CHARACTERS_MAX)]


class Envelope(BaseModel):
    """Properties and headers of one message (RabbitMQ: publishers, message properties).

    `caused_by` is the id of the message whose handling sent this one; `lamport` is the sender's
    Lamport time; `epoch` is the manager's, and 0 from anybody else; `traceparent` is W3C's.
    `entry` is the entry of that epoch's log that the message comes from, `ended` the last entries
    of earlier epochs, as `epoch:entry` separated by commas (docs/recovery.md).
    `user_id` is put in by the driver, whose connection it is, and validated by the broker.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    message_id: str = Field(max_length=255)
    correlation_id: str | None = Field(default=None, max_length=255)
    reply_to: str | None = Field(default=None, max_length=255)
    caused_by: str | None = Field(default=None, max_length=255)
    traceparent: str = Field(pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
    sender: str = Field(min_length=1, max_length=100)
    lamport: int = Field(ge=0, le=limits.COUNTER_MAX)
    epoch: int = Field(ge=0, le=limits.COUNTER_MAX)
    entry: int | None = Field(default=None, ge=0, le=limits.COUNTER_MAX)
    ended: str | None = Field(
        default=None,
        pattern=r"^[0-9]{1,16}:[0-9]{1,16}(,[0-9]{1,16}:[0-9]{1,16})*$",
        max_length=limits.TEXT_CHARACTERS_MAX,
    )
    user_id: str | None = Field(default=None, max_length=255)


class Record(BaseModel):
    """One line of the history (docs/protocol.md lists the events).

    `seq` counts per actor; `at_ns` is the recording process's wall clock in nanoseconds, for
    people: order comes from `seq`, `lamport` and the messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = Field(default=limits.SCHEMA_VERSION, alias="schema")
    seq: int = Field(ge=0, le=limits.NANOSECONDS_MAX)
    actor: _Text
    event: Event
    vm: _Text | None = None
    vcpu: int | None = Field(default=None, ge=0, lt=limits.VCPUS_MAX)
    step: _Text | None = None
    message_id: _Text | None = None
    caused_by: _Text | None = None
    lamport: int = Field(ge=0, le=limits.NANOSECONDS_MAX)
    at_ns: int = Field(ge=0, le=limits.NANOSECONDS_MAX)
    traceparent: _Text | None = None
    details: dict[str, Any] = Field(default_factory=dict)

    def to_line(self) -> str:
        """Return the record as one line of JSON."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


Observe = Callable[[Record], None]
"""What is told of every record that an actor makes."""

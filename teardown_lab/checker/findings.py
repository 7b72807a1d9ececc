"""What a judgement is made of: the closed sets of names and the frozen results.

The names are the labels in JSON, metrics and reports; nothing here decides anything.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from vm_protocol.invariants import Invariant


class Verdict(StrEnum):
    """The answer; violated beats inconclusive beats safe."""

    SAFE = "safe"
    VIOLATED = "violated"
    INCONCLUSIVE = "inconclusive"


class HazardName(StrEnum):
    """What went well this time only."""

    VISIBLE_WHILE_FREED = "visible-while-freed"
    FLUSH_TO_NOBODY = "flush-to-nobody"


class VacuityReason(StrEnum):
    """Why no unload raised a flush that reached anybody."""

    TDP = "tdp"
    NO_ZAP = "no-zap"
    NO_ROOT = "no-root"
    NOBODY_VISIBLE = "nobody-visible"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The newest message of each chain that led to a violation; None where there is no chain."""

    used_by: str | None = None
    freed_by: str | None = None
    allocated_by: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """One message of a chain: its type, the kernel function it stands for, its sender and cause."""

    type: str
    function: str
    by: str
    caused_by: str | None


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant.

    `message_id` is the message that broke it, or whose handling did; None where no message had a
    part in it. Two violations with different evidence for the same are equal.
    """

    invariant: Invariant
    vcpu: int | None
    message_id: str | None
    explain: str
    evidence: Evidence = field(default=Evidence(), compare=False)


@dataclass(frozen=True, slots=True)
class Found:
    """A violation and its place in the causal order, by which results are sorted.

    `about` names what was left behind, where the violation is about neither a vCPU nor a message.
    """

    position: int
    violation: Violation
    about: str = ""


@dataclass(frozen=True, slots=True)
class Hazard:
    """One window that stood open and that nobody went through."""

    hazard: HazardName
    vcpu: int | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, with the invariant that the checker derives from it."""

    reason: str
    queue: str
    vcpu: int | None
    invariant: Invariant | None


@dataclass(frozen=True, slots=True)
class Takeover:
    """One manager that went on with the VM of another: `entry` is the last that counts of its log.

    `repeated` entries were performed again, as nobody knew whether that had been done.
    """

    by: str
    predecessor: str
    entry: int
    repeated: int


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of the contract; `flush_*` are TLB flushes only, per distinct (message, vCPU)."""

    commands: int = 0
    flush_broadcasts: int = 0
    flush_deliveries: int = 0
    flush_acks: int = 0
    unload_flush_requests: int = 0
    dead_letters: int = 0
    unaccounted: int = 0


@dataclass(frozen=True, slots=True)
class Vacuity:
    """The unloads raised no flush that reached anybody, and why; `text` says it of this history."""

    why: VacuityReason
    flushes: int = 0
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class LostHost:
    """A worker that the manager counted as lost in the middle of the run, and why.

    `vcpus` were the VM's that it had: what became of their memory is not judged.
    """

    worker: str
    reason: str
    vcpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long the two halves of a run took; None when the history does not say."""

    create: float | None = None
    teardown: float | None = None

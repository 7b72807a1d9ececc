"""The judgement of one VM, and its JSON object: the contract that other programs read.

The typed dictionaries are the contract's keys; the type checker holds this file to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypedDict

from teardown_lab.checker.findings import (
    Counts,
    DeadLetter,
    Hazard,
    Link,
    LostHost,
    Seconds,
    Takeover,
    Vacuity,
    Verdict,
    Violation,
)
from vm_protocol import limits

FROM_A_FILE: Final = "history"


class CountsObject(TypedDict):
    """`counts`."""

    commands: int
    flush_broadcasts: int
    flush_deliveries: int
    flush_acks: int
    unload_flush_requests: int
    dead_letters: int
    unaccounted: int


class ViolationObject(TypedDict):
    """One of `violations`; the last three are where its chains begin in `messages`."""

    invariant: str
    vcpu: int | None
    message_id: str | None
    explain: str
    used_by: str | None
    freed_by: str | None
    allocated_by: str | None


class LinkObject(TypedDict):
    """One of `messages`: of a chain; the next one is `caused_by`, null at its end."""

    type: str
    function: str
    by: str
    caused_by: str | None


class HazardObject(TypedDict):
    """One of `hazards`."""

    hazard: str
    vcpu: int | None


class DeadLetterObject(TypedDict):
    """One of `dead_letters`."""

    reason: str
    queue: str
    vcpu: int | None
    invariant: str | None


class LostHostObject(TypedDict):
    """One of `lost_hosts`: a worker that was lost, with its vCPUs of this VM."""

    worker: str
    reason: str
    vcpus: list[int]


class VacuityObject(TypedDict):
    """`vacuity`, when the unloads raised no flush."""

    flushes: int
    why: str
    text: str


class SecondsObject(TypedDict):
    """`seconds`; null where the history does not say."""

    create: float | None
    teardown: float | None


class ResultObject(TypedDict):
    """The whole object."""

    schema: int
    ordering: str
    scenario: Mapping[str, object]
    broker: str
    verdict: str
    violations: list[ViolationObject]
    hazards: list[HazardObject]
    dead_letters: list[DeadLetterObject]
    lost_hosts: list[LostHostObject]
    counts: CountsObject
    vacuity: VacuityObject | None
    takeovers: int
    notes: list[str]
    source: str
    seconds: SecondsObject
    history: str
    messages: Mapping[str, LinkObject]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything that the checker says about one VM's history.

    `notes` are the reasons why the history cannot prove safety; with any of them the verdict is
    `inconclusive`, unless a violation was found. `scenario` is what the run said of itself.
    `messages` are those of all chains of the violations, by their ids. `stale_records` were written
    by managers that had lost their office, and are no evidence.
    """

    vm: str
    verdict: Verdict
    violations: tuple[Violation, ...]
    hazards: tuple[Hazard, ...]
    dead_letters: tuple[DeadLetter, ...]
    counts: Counts
    vacuity: Vacuity | None
    notes: tuple[str, ...]
    ordering: str
    scenario: Mapping[str, object]
    broker: str
    source: str
    seconds: Seconds
    lost_hosts: tuple[LostHost, ...] = ()
    messages: Mapping[str, Link] = field(default_factory=dict)
    takeovers: tuple[Takeover, ...] = ()
    stale_records: int = 0

    def to_json(self, history: str, source: str | None = None) -> ResultObject:
        """Return the JSON object of this judgement.

        Args:
            history: Path of the judged file.
            source: Where the history comes from, if not as the run itself wrote down.
        """
        return {
            "schema": limits.SCHEMA_VERSION,
            "ordering": self.ordering,
            "scenario": self.scenario,
            "broker": self.broker,
            "verdict": str(self.verdict),
            "violations": [
                {
                    "invariant": str(each.invariant),
                    "vcpu": each.vcpu,
                    "message_id": each.message_id,
                    "explain": each.explain,
                    "used_by": each.evidence.used_by,
                    "freed_by": each.evidence.freed_by,
                    "allocated_by": each.evidence.allocated_by,
                }
                for each in self.violations
            ],
            "hazards": [{"hazard": str(each.hazard), "vcpu": each.vcpu} for each in self.hazards],
            "dead_letters": [
                {
                    "reason": each.reason,
                    "queue": each.queue,
                    "vcpu": each.vcpu,
                    "invariant": str(each.invariant) if each.invariant else None,
                }
                for each in self.dead_letters
            ],
            "lost_hosts": [_lost_host(each) for each in self.lost_hosts],
            "counts": _counts(self.counts),
            "vacuity": _vacuity(self.vacuity),
            "takeovers": len(self.takeovers),
            "notes": list(self.notes),
            "source": source or self.source or FROM_A_FILE,
            "seconds": {
                "create": self.seconds.create,
                "teardown": self.seconds.teardown,
            },
            "history": history,
            "messages": {
                message_id: {
                    "type": link.type,
                    "function": link.function,
                    "by": link.by,
                    "caused_by": link.caused_by,
                }
                for message_id, link in self.messages.items()
            },
        }


def _counts(counts: Counts) -> CountsObject:
    return {
        "commands": counts.commands,
        "flush_broadcasts": counts.flush_broadcasts,
        "flush_deliveries": counts.flush_deliveries,
        "flush_acks": counts.flush_acks,
        "unload_flush_requests": counts.unload_flush_requests,
        "dead_letters": counts.dead_letters,
        "unaccounted": counts.unaccounted,
    }


def _lost_host(host: LostHost) -> LostHostObject:
    return {"worker": host.worker, "reason": host.reason, "vcpus": list(host.vcpus)}


def _vacuity(vacuity: Vacuity | None) -> VacuityObject | None:
    if vacuity is None:
        return None
    return {"flushes": vacuity.flushes, "why": str(vacuity.why), "text": vacuity.text}

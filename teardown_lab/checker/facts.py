"""One VM's history, indexed once: who sent, got and settled what, and what became of each vCPU.

Gathered in causal order (gathering.py) and only read afterwards; each class holds what is about one
thing. A *delivery* is a (message, vCPU): however often the broker brings it, it is judged once, by
its first arrival.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from teardown_lab.checker import shapes
from teardown_lab.checker.happens_before import Moment, Timeline, before
from teardown_lab.checker.history import History
from vm_protocol import limits
from vm_protocol.messages import REQUEST_KINDS, REQUEST_TYPE_NAMES
from vm_protocol.scenario import Scenario
from vm_protocol.topology import parse_mailbox
from vm_protocol.trust import epoch_of, without_epoch
from vm_protocol.wire import Record

DeliveryId = tuple[str, int | None]

TYPE_OF_KIND: Final = {kind: name for name, kind in REQUEST_KINDS.items()}
SERVED_ONCE: Final = ("AsyncPfCompleted", "VmStateRead")
"""Messages beside requests whose every delivery must be settled; one recipient each."""

FROM_CLIENTS: Final = ("CreateVm", "DestroyVm", "RemoveVm")
"""Messages of clients, which need not write a history."""


@dataclass(frozen=True, slots=True)
class Freeing:
    """A vCPU's memory is dropped, while its worker ran `command`."""

    moment: Moment
    command: str | None


@dataclass(frozen=True, slots=True)
class StepBegun:
    """A worker begins a step of a vCPU, as part of `command`."""

    moment: Moment
    vcpu: int
    name: str
    command: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker answered to a command, as it sent it: done, refused or stuck."""

    outcome: str
    sent: Moment


@dataclass(frozen=True, slots=True)
class Messages:
    """What was sent, by message id; of some that were not, the type and vCPU are known too.

    `sent_differently` are ids that name two different bodies. `answers` are by the command's id.
    """

    types: dict[str, str] = field(default_factory=dict)
    sent: dict[str, Moment] = field(default_factory=dict)
    sent_differently: list[str] = field(default_factory=list)
    vcpu_of: dict[str, int | None] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    _recipients: dict[str, frozenset[int]] = field(default_factory=dict)

    def of_type(self, *names: str) -> list[str]:
        """Return the ids of what was sent of these types."""
        return [each for each, name in self.types.items() if name in names and each in self.sent]

    def kind(self, message_id: str) -> str:
        """Return the kind of a request, "" for what is none."""
        return REQUEST_KINDS.get(self.types.get(message_id, ""), "")

    def is_request(self, message_id: str) -> bool:
        """Return whether a message is one that the manager posts to all visible vCPUs."""
        return self.types.get(message_id) in REQUEST_TYPE_NAMES

    def body(self, message_id: str) -> shapes.Body:
        """Return the body of a message; an empty one when its sending is not in the history."""
        moment = self.sent.get(message_id)
        return shapes.body(moment.record) if moment else shapes.Body({})

    def recipients(self, message_id: str) -> frozenset[int]:
        """Return the expected recipients of a sent request."""
        known = self._recipients.get(message_id)
        if known is None:
            known = frozenset(self.body(message_id).numbers("recipients"))
            self._recipients[message_id] = known
        return known

    def delivery(self, record: Record) -> DeliveryId:
        """Return which (message, vCPU) a settlement or a dead letter is about."""
        message_id = record.message_id or ""
        mailbox = parse_mailbox(shapes.text(record, "queue"))
        if mailbox is not None:
            return message_id, mailbox.vcpu
        return message_id, self.vcpu_of.get(message_id, record.vcpu)


@dataclass(frozen=True, slots=True)
class DeliveryFacts:
    """What arrived, and how it was settled; each map holds the first moment.

    `in_mailboxes` arrived at a vCPU's mailbox, `arrivals` elsewhere. `taken` counts how often the
    broker brought a delivery to a mailbox; `outcomes` are what the worker made of each.
    `duplicated` were known to their worker. `unknown_settles` settle what never arrived.
    `stale_letters` are of what a manager out of office had sent; nothing else here knows of those.
    """

    arrivals: dict[DeliveryId, Moment] = field(default_factory=dict)
    in_mailboxes: dict[DeliveryId, Moment] = field(default_factory=dict)
    taken: Counter[DeliveryId] = field(default_factory=Counter)
    outcomes: dict[DeliveryId, list[str]] = field(default_factory=dict)
    duplicated: set[DeliveryId] = field(default_factory=set)
    acked: dict[DeliveryId, Moment] = field(default_factory=dict)
    rejected: dict[DeliveryId, Moment] = field(default_factory=dict)
    requeued: dict[DeliveryId, Moment] = field(default_factory=dict)
    unknown_settles: list[Moment] = field(default_factory=list)
    letters: list[Moment] = field(default_factory=list)
    stale_letters: list[Moment] = field(default_factory=list)

    def is_seen_again(self, delivery: DeliveryId, arrival: Moment) -> bool:
        """Return whether a delivery's first recorded arrival was not its first.

        It was delivered before, or its worker had seen it, and it was acknowledged: when it came
        first is not in the history.
        """
        again = arrival.record.details.get("redelivered") is True or delivery in self.duplicated
        return again and delivery in self.acked and delivery not in self.rejected


@dataclass(frozen=True, slots=True)
class Requests:
    """What the manager says that it posted to all visible vCPUs, and waited for.

    `post_of` is by message id; `ambiguous` ids were posted twice and differently, `posted_again`
    twice alike. `flush_waits` are the ends of waits for acknowledgements.
    """

    posts: list[Moment] = field(default_factory=list)
    post_of: dict[str, Moment] = field(default_factory=dict)
    ambiguous: list[str] = field(default_factory=list)
    posted_again: list[str] = field(default_factory=list)
    flush_waits: list[Moment] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class VcpuArray:
    """When each vCPU was first bound, hidden and erased; `shown_again` are bindings after that."""

    visible: dict[int, Moment] = field(default_factory=dict)
    shown_again: list[Moment] = field(default_factory=list)
    hidden: dict[int, Moment] = field(default_factory=dict)
    erased: dict[int, Moment] = field(default_factory=dict)

    def is_erased_before(self, vcpu: int, moment: Moment) -> bool:
        """Return whether a vCPU certainly left the array before a moment."""
        erased = self.erased.get(vcpu)
        return erased is not None and before(erased, moment)


@dataclass(frozen=True, slots=True)
class VcpuMemory:
    """When a worker first allocated each vCPU's memory, and every time that it was freed."""

    created: dict[int, Moment] = field(default_factory=dict)
    freed: dict[int, list[Freeing]] = field(default_factory=dict)

    def freed_before(self, vcpu: int | None, moment: Moment) -> Freeing | None:
        """Return the free of a vCPU that happened before a moment, None when none did."""
        if vcpu is None:
            return None
        first = next(iter(self.freed.get(vcpu, ())), None)
        # Concurrent is not before: where no order is certain, nobody is accused.
        return first if first is not None and before(first.moment, moment) else None


@dataclass(frozen=True, slots=True)
class Hosts:
    """The workers that the manager counted as lost, and since when it lacks each of their vCPUs.

    What a lost vCPU still owed is owed by nobody: its memory is gone with its host.
    """

    lost: list[Moment] = field(default_factory=list)
    vcpus: dict[int | None, Moment] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Guests:
    """When each vCPU first entered and left guest mode and flushed its TLB; its async page faults.

    `faults_placed` is how many a vCPU was placed with, `faults_done` are (vCPU, number of fault).
    """

    entered: dict[int, Moment] = field(default_factory=dict)
    left: dict[int, Moment] = field(default_factory=dict)
    tlb_flushed: dict[int, Moment] = field(default_factory=dict)
    faults_placed: dict[int | None, int | None] = field(default_factory=dict)
    faults_done: set[tuple[int | None, int | None]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class StepFacts:
    """Steps that began: `by_actor` each with its record, `by_workers` with the command.

    `running` is the command that each vCPU's worker took up last, while the facts are gathered.
    """

    by_actor: dict[int, list[Moment]] = field(default_factory=dict)
    by_workers: list[StepBegun] = field(default_factory=list)
    running: dict[int, str] = field(default_factory=dict)

    def named(self, name: str) -> list[Moment]:
        """Return the beginnings of all steps of a name."""
        begun = (step for steps in self.by_actor.values() for step in steps)
        return [step for step in begun if shapes.text(step.record, "name") == name]


@dataclass(frozen=True, slots=True)
class VmState:
    """The VM's own state: when each part was first freed, who read it, its background work."""

    freed: dict[str, Moment] = field(default_factory=dict)
    freed_again: list[Moment] = field(default_factory=list)
    reads: list[Moment] = field(default_factory=list)
    background_stops: list[Moment] = field(default_factory=list)

    @property
    def background_stopped(self) -> Moment | None:
        """Return when the background work was first stopped."""
        return first(self.background_stops)


@dataclass(frozen=True, slots=True)
class MmuFacts:
    """What became of roots (allocated, pinned, unpinned, invalidated, freed) and of guest pages."""

    roots: list[Moment] = field(default_factory=list)
    pages_freed: list[Moment] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Life:
    """The VM's life as managers tell it: creations, teardowns begun and stuck, its end.

    `takeovers` are those that the VM lived through.
    """

    created: list[Moment] = field(default_factory=list)
    teardowns: list[Moment] = field(default_factory=list)
    stuck: list[Moment] = field(default_factory=list)
    frees: list[Moment] = field(default_factory=list)
    removals: list[Moment] = field(default_factory=list)
    takeovers: list[Moment] = field(default_factory=list)

    @property
    def teardown_started(self) -> Moment | None:
        """Return when a teardown first began."""
        return first(self.teardowns)

    @property
    def freed(self) -> Moment | None:
        """Return when the VM was first said to be freed."""
        return first(self.frees)

    @property
    def removed(self) -> Moment | None:
        """Return when what was left of the VM was first cleared away."""
        return first(self.removals)


@dataclass(frozen=True, slots=True)
class Run:
    """What the run's client wrote of itself, if one did; the last of each counts."""

    starts: list[Moment] = field(default_factory=list)
    ends: list[Moment] = field(default_factory=list)

    @property
    def started(self) -> Record | None:
        """Return what the run was to be."""
        return self.starts[-1].record if self.starts else None

    @property
    def finished(self) -> Record | None:
        """Return how it ended."""
        return self.ends[-1].record if self.ends else None

    @property
    def is_lab_file(self) -> bool:
        """Return whether a run's client wrote this file: it has every record about its VM."""
        return self.started is not None and "whole" in self.started.details

    @property
    def outcome(self) -> str:
        """Return how the run says it ended, "" when it does not."""
        return shapes.text(self.finished, "outcome") if self.finished else ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of one VM; `moments` are its records in causal order."""

    vm: str
    history: History
    timeline: Timeline
    moments: list[Moment] = field(default_factory=list)
    messages: Messages = field(default_factory=Messages)
    deliveries: DeliveryFacts = field(default_factory=DeliveryFacts)
    requests: Requests = field(default_factory=Requests)
    array: VcpuArray = field(default_factory=VcpuArray)
    memory: VcpuMemory = field(default_factory=VcpuMemory)
    guests: Guests = field(default_factory=Guests)
    hosts: Hosts = field(default_factory=Hosts)
    steps: StepFacts = field(default_factory=StepFacts)
    vm_state: VmState = field(default_factory=VmState)
    mmu: MmuFacts = field(default_factory=MmuFacts)
    life: Life = field(default_factory=Life)
    run: Run = field(default_factory=Run)

    def vcpus(self) -> list[int]:
        """Return the vCPUs that existed, sorted."""
        return sorted(self.array.visible.keys() | self.memory.created.keys())

    def scenario(self) -> Mapping[str, object]:
        """Return the scenario that the run, or else the manager, wrote down."""
        if self.run.started is not None and shapes.mapping(self.run.started, "scenario"):
            return shapes.mapping(self.run.started, "scenario")
        created = first(self.life.created)
        return shapes.mapping(created.record, "scenario") if created else {}

    def scenario_read(self) -> Scenario | None:
        """Return the scenario as the services read it, None when it is none."""
        try:
            return Scenario.model_validate_json(json.dumps(self.scenario()))
        except ValidationError:
            return None

    @property
    def has_messages(self) -> bool:
        """Return whether the history is one of messages; a recorded kernel has none."""
        return bool(self.messages.sent or self.deliveries.arrivals or self.deliveries.taken)

    def async_faults(self, vcpu: int) -> int:
        """Return how many async page faults a vCPU was placed with; 0 for what is no number."""
        placed = self.guests.faults_placed.get(vcpu)
        said = self.scenario().get("async_pf", 0) if placed is None else placed
        return said if isinstance(said, int) and 0 <= said <= limits.FAULTS_MAX else 0

    def manager(self) -> int | None:
        """Return the actor that took up the teardown, or else owns the VM's roots."""
        owner = first([*self.life.teardowns, *self.life.created, *self.mmu.roots])
        return owner.actor if owner is not None else None

    def name_of(self, actor: str) -> str:
        """Return an actor's name for people: a manager's tells its epoch if there are several."""
        epochs = [each for each in self.timeline.actors if epoch_of(each) is not None]
        return actor if len(epochs) > 1 else without_epoch(actor)

    def told(self, record: Record) -> str:
        """Return which record it is, for people."""
        return f"record {record.seq} of {self.name_of(record.actor)}"

    def reached(self, post: Moment) -> frozenset[int]:
        """Return the vCPUs that a posted request was published to.

        The published body decides, not what the post says of it; without a message there is
        nobody, where the history is one of messages.
        """
        said = frozenset(shapes.numbers(post.record, "recipients"))
        if post.record.message_id is None:
            return frozenset() if self.has_messages else said
        if post.record.message_id in self.messages.sent:
            return self.messages.recipients(post.record.message_id)
        return said

    def command_of(self, record: Record, vcpu: int) -> str | None:
        """Return the DestroyVcpu under which a worker does something to a vCPU."""
        cause = record.caused_by
        if cause is not None and self.messages.types.get(cause) == "DestroyVcpu":
            return cause
        # After a wait, the cause is what ended it; the command that goes on then is meant.
        return self.steps.running.get(vcpu, cause)


def first(moments: list[Moment]) -> Moment | None:
    """Return the first of several moments, None where there is none."""
    return moments[0] if moments else None

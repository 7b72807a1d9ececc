"""One VM's history, indexed once: who sent, got and settled what, and what became of each vCPU.

Gathered in causal order and only read afterwards. A *delivery* is a (message, vCPU): however
often the broker brings it, it is judged once, by its first arrival.
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


@dataclass(slots=True)
class Facts:
    """The index. Maps by vCPU hold the first moment; maps by delivery the first arrival."""

    vm: str
    history: History
    timeline: Timeline
    moments: list[Moment] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    sent: dict[str, Moment] = field(default_factory=dict)
    sent_again: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    duplicated: set[DeliveryId] = field(default_factory=set)
    delivered: dict[DeliveryId, list[str]] = field(default_factory=dict)
    mailbox_received: Counter[DeliveryId] = field(default_factory=Counter)
    vcpu_of: dict[str, int | None] = field(default_factory=dict)
    mailbox_arrivals: dict[DeliveryId, Moment] = field(default_factory=dict)
    arrivals: dict[DeliveryId, Moment] = field(default_factory=dict)
    acked: dict[DeliveryId, Moment] = field(default_factory=dict)
    rejected: dict[DeliveryId, Moment] = field(default_factory=dict)
    requeued: dict[DeliveryId, Moment] = field(default_factory=dict)
    unknown_settles: list[Moment] = field(default_factory=list)
    letters: list[Moment] = field(default_factory=list)
    republished: set[str] = field(default_factory=set)
    posts: list[Moment] = field(default_factory=list)
    post_of: dict[str, Moment] = field(default_factory=dict)
    ambiguous: list[str] = field(default_factory=list)
    posted_again: list[str] = field(default_factory=list)
    visible: dict[int, Moment] = field(default_factory=dict)
    shown_again: list[Moment] = field(default_factory=list)
    hidden: dict[int, Moment] = field(default_factory=dict)
    erased: dict[int, Moment] = field(default_factory=dict)
    created: dict[int, Moment] = field(default_factory=dict)
    freed: dict[int, list[Freeing]] = field(default_factory=dict)
    steps: dict[int, list[Moment]] = field(default_factory=dict)
    worker_steps: list[StepBegun] = field(default_factory=list)
    faults_done: set[tuple[int | None, int | None]] = field(default_factory=set)
    state_freed: dict[str, Moment] = field(default_factory=dict)
    state_freed_again: list[Moment] = field(default_factory=list)
    background_stopped: Moment | None = None
    state_reads: list[Moment] = field(default_factory=list)
    roots: list[Moment] = field(default_factory=list)
    pages_freed: list[Moment] = field(default_factory=list)
    guest_entered: dict[int, Moment] = field(default_factory=dict)
    guest_left: dict[int, Moment] = field(default_factory=dict)
    tlb_flushed: dict[int, Moment] = field(default_factory=dict)
    created_vm: list[Moment] = field(default_factory=list)
    teardown_started: Moment | None = None
    stuck: list[Moment] = field(default_factory=list)
    flush_waits: list[Moment] = field(default_factory=list)
    vm_freed: Moment | None = None
    vm_removed: Moment | None = None
    run_started: Record | None = None
    run_finished: Record | None = None
    placed_faults: dict[int | None, int | None] = field(default_factory=dict)
    running: dict[int, str] = field(default_factory=dict)
    _recipients: dict[str, frozenset[int]] = field(default_factory=dict)

    def vcpus(self) -> list[int]:
        """Return the vCPUs that existed, sorted."""
        return sorted(self.visible.keys() | self.created.keys())

    def scenario(self) -> Mapping[str, object]:
        """Return the scenario that the run, or else the manager, wrote down."""
        if self.run_started is not None and shapes.mapping(self.run_started, "scenario"):
            return shapes.mapping(self.run_started, "scenario")
        return shapes.mapping(self.created_vm[0].record, "scenario") if self.created_vm else {}

    def has_run(self, name: str) -> bool:
        """Return whether a step of this name began."""
        return any(
            shapes.text(step.record, "name") == name
            for steps in self.steps.values()
            for step in steps
        )

    @property
    def is_lab_file(self) -> bool:
        """Return whether a run's client wrote this file: it has every record about its VM."""
        return self.run_started is not None and "whole" in self.run_started.details

    @property
    def has_messages(self) -> bool:
        """Return whether the history is one of messages; a recorded kernel has none."""
        return bool(self.sent or self.arrivals or self.mailbox_received)

    def scenario_read(self) -> Scenario | None:
        """Return the scenario as the services read it, None when it is none."""
        try:
            return Scenario.model_validate_json(json.dumps(self.scenario()))
        except ValidationError:
            return None

    def async_faults(self, vcpu: int) -> int:
        """Return how many async page faults a vCPU was placed with; 0 for what is no number."""
        placed = self.placed_faults.get(vcpu)
        said = self.scenario().get("async_pf", 0) if placed is None else placed
        return said if isinstance(said, int) and 0 <= said <= limits.FAULTS_MAX else 0

    def manager(self) -> int | None:
        """Return the actor that took up the teardown, or else owns the VM's roots."""
        owner = self.teardown_started or next(iter((*self.created_vm, *self.roots)), None)
        return owner.actor if owner is not None else None

    def kind(self, message_id: str) -> str:
        """Return the kind of a request, "" for what is none."""
        return REQUEST_KINDS.get(self.types.get(message_id, ""), "")

    def is_erased_before(self, vcpu: int, moment: Moment) -> bool:
        """Return whether a vCPU certainly left the array before a moment."""
        erased = self.erased.get(vcpu)
        return erased is not None and before(erased, moment)

    def outcome(self) -> str:
        """Return how the run says it ended, "" when it does not."""
        return shapes.text(self.run_finished, "outcome") if self.run_finished else ""

    def freed_before(self, vcpu: int | None, moment: Moment) -> Freeing | None:
        """Return the free of a vCPU that happened before a moment, None when none did."""
        if vcpu is None:
            return None
        first = next(iter(self.freed.get(vcpu, ())), None)
        # Concurrent is not before: where no order is certain, nobody is accused.
        return first if first is not None and before(first.moment, moment) else None

    def is_seen_again(self, delivery: DeliveryId, arrival: Moment) -> bool:
        """Return whether a delivery's first recorded arrival was not its first.

        It was delivered before, or its worker had seen it, and it was acknowledged: when it came
        first is not in the history.
        """
        again = arrival.record.details.get("redelivered") is True or delivery in self.duplicated
        return again and delivery in self.acked and delivery not in self.rejected

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

    def reached(self, post: Moment) -> frozenset[int]:
        """Return the vCPUs that a posted request was published to.

        The published body decides, not what the post says of it; without a message there is
        nobody, where the history is one of messages.
        """
        said = frozenset(shapes.numbers(post.record, "recipients"))
        if post.record.message_id is None:
            return frozenset() if self.has_messages else said
        if post.record.message_id in self.sent:
            return self.recipients(post.record.message_id)
        return said

    def delivery(self, record: Record) -> DeliveryId:
        """Return which (message, vCPU) a settlement or a dead letter is about."""
        message_id = record.message_id or ""
        mailbox = parse_mailbox(shapes.text(record, "queue"))
        if mailbox is not None:
            return message_id, mailbox.vcpu
        return message_id, self.vcpu_of.get(message_id, record.vcpu)

    def command_of(self, record: Record, vcpu: int) -> str | None:
        """Return the DestroyVcpu under which a worker does something to a vCPU."""
        if record.caused_by is not None and self.types.get(record.caused_by) == "DestroyVcpu":
            return record.caused_by
        # After a wait, the cause is what ended it; the command that goes on then is meant.
        return self.running.get(vcpu, record.caused_by)


def is_request(facts: Facts, message_id: str) -> bool:
    """Return whether a message is one that the manager posts to all visible vCPUs."""
    return facts.types.get(message_id) in REQUEST_TYPE_NAMES

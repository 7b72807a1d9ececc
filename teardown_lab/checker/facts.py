"""One VM's history, indexed once: who sent, got and settled what, and what became of each vCPU.

Gathered in causal order and only read afterwards. A *delivery* is a (message, vCPU): however
often the broker brings it, it is judged once, by its first arrival.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.happens_before import Moment, Timeline, before, order
from teardown_lab.checker.history import History
from vm_protocol.messages import REQUEST_TYPE_NAMES
from vm_protocol.observations import Event
from vm_protocol.ordering import WORKER_STEPS
from vm_protocol.topology import parse_mailbox
from vm_protocol.wire import Record

Delivery = tuple[str, int | None]

KIND_OF_TYPE: Final = {
    "TlbFlush": "tlb-flush",
    "DropObsoleteRoots": "drop-obsolete-roots",
    "ScanIoapic": "scan-ioapic",
    "ClockUpdate": "clock-update",
}
TYPE_OF_KIND: Final = {kind: name for name, kind in KIND_OF_TYPE.items()}
TLB_FLUSH: Final = "tlb-flush"
SERVED_ONCE: Final = ("AsyncPfCompleted", "VmStateRead")
"""Messages beside requests whose every delivery must be settled; one recipient each."""

FROM_CLIENTS: Final = ("CreateVm", "DestroyVm", "RemoveVm")
"""Messages of clients, which need not write a history."""

_RUN_EVENTS: Final = (Event.RUN_STARTED, Event.RUN_FINISHED)


@dataclass(frozen=True, slots=True)
class Freeing:
    """A vCPU's memory is dropped, while its worker ran `command`."""

    moment: Moment
    command: str | None


@dataclass(frozen=True, slots=True)
class WorkerStep:
    """A worker begins a step of a vCPU, as part of `command`."""

    moment: Moment
    vcpu: int
    name: str
    command: str | None


@dataclass(slots=True)
class Facts:
    """The index. Maps by vCPU hold the first moment; maps by delivery the first arrival."""

    vm: str
    history: History
    timeline: Timeline
    moments: list[Moment] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    sent: dict[str, Moment] = field(default_factory=dict)
    vcpu_of: dict[str, int | None] = field(default_factory=dict)
    mailbox_arrivals: dict[Delivery, Moment] = field(default_factory=dict)
    arrivals: dict[Delivery, Moment] = field(default_factory=dict)
    acked: dict[Delivery, Moment] = field(default_factory=dict)
    rejected: dict[Delivery, Moment] = field(default_factory=dict)
    requeued: dict[Delivery, Moment] = field(default_factory=dict)
    unknown_settles: list[Moment] = field(default_factory=list)
    letters: list[Moment] = field(default_factory=list)
    republished: set[str] = field(default_factory=set)
    posts: list[Moment] = field(default_factory=list)
    post_of: dict[str, Moment] = field(default_factory=dict)
    ambiguous: list[str] = field(default_factory=list)
    visible: dict[int, Moment] = field(default_factory=dict)
    shown_again: list[Moment] = field(default_factory=list)
    hidden: dict[int, Moment] = field(default_factory=dict)
    erased: dict[int, Moment] = field(default_factory=dict)
    created: dict[int, Moment] = field(default_factory=dict)
    freed: dict[int, list[Freeing]] = field(default_factory=dict)
    steps: dict[int, list[Moment]] = field(default_factory=dict)
    steps_finished: list[Moment] = field(default_factory=list)
    worker_steps: list[WorkerStep] = field(default_factory=list)
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
    run_started: Record | None = None
    run_finished: Record | None = None
    _running: dict[int, str] = field(default_factory=dict)
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

    def outcome(self) -> str:
        """Return how the run says it ended, "" when it does not."""
        return shapes.text(self.run_finished, "outcome") if self.run_finished else ""

    def freed_before(self, vcpu: int | None, moment: Moment) -> Freeing | None:
        """Return the free of a vCPU that happened before a moment, None when none did."""
        if vcpu is None:
            return None
        first = next(iter(self.freed.get(vcpu, ())), None)
        return first if first is not None and before(first.moment, moment) else None

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

    def delivery(self, record: Record) -> Delivery:
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
        return self._running.get(vcpu, record.caused_by)

    # --- gathering: one method an event ---------------------------------------------------

    def _sent(self, moment: Moment) -> None:
        message_id = moment.record.message_id or ""
        self.sent.setdefault(message_id, moment)
        self.types[message_id] = shapes.text(moment.record, "type")
        body = shapes.body(moment.record)
        self.vcpu_of[message_id] = body.number("vcpu")
        if self.types[message_id] == "AsyncPfCompleted":
            self.faults_done.add((body.number("vcpu"), body.number("fault")))

    def _received(self, moment: Moment) -> None:
        record = moment.record
        message_id = record.message_id or ""
        self.types.setdefault(message_id, shapes.text(record, "type"))
        mailbox = parse_mailbox(shapes.text(record, "queue"))
        if mailbox is not None:
            self.mailbox_arrivals.setdefault((message_id, mailbox.vcpu), moment)
            return
        vcpu = self.vcpu_of.setdefault(message_id, record.vcpu)
        first = self.arrivals.setdefault((message_id, vcpu), moment)
        if first is moment and self.types[message_id] == "DestroyVcpu" and vcpu is not None:
            self._running[vcpu] = message_id

    def _acked(self, moment: Moment) -> None:
        self._settle(self.acked, moment)

    def _rejected(self, moment: Moment) -> None:
        if not moment.record.message_id:
            return
        requeue = bool(moment.record.details.get("requeue", False))
        self._settle(self.requeued if requeue else self.rejected, moment)

    def _settle(self, into: dict[Delivery, Moment], moment: Moment) -> None:
        delivery = self.delivery(moment.record)
        if delivery not in self.mailbox_arrivals and delivery not in self.arrivals:
            self.unknown_settles.append(moment)
        into.setdefault(delivery, moment)

    def _delivered(self, moment: Moment) -> None:
        record = moment.record
        generation = shapes.number(record, "generation")
        message_id = record.message_id or record.caused_by or f"request/{generation}"
        kind = shapes.text(record, "kind")
        self.types.setdefault(message_id, TYPE_OF_KIND.get(kind, kind))
        self.mailbox_arrivals.setdefault((message_id, record.vcpu), moment)

    def _posted(self, moment: Moment) -> None:
        message_id = moment.record.message_id
        if message_id is not None:
            first = self.post_of.setdefault(message_id, moment)
            if first is not moment:
                if first.record.details != moment.record.details:
                    self.ambiguous.append(message_id)
                return
            kind = shapes.text(moment.record, "kind")
            self.types.setdefault(message_id, TYPE_OF_KIND.get(kind, kind))
        self.posts.append(moment)

    def _letter(self, moment: Moment) -> None:
        self.letters.append(moment)

    def _republished(self, moment: Moment) -> None:
        self.republished.add(moment.record.message_id or "")

    def _visible(self, moment: Moment) -> None:
        vcpu = moment.record.vcpu
        assert vcpu is not None
        if vcpu in self.erased:
            self.shown_again.append(moment)
        self.visible.setdefault(vcpu, moment)

    def _hidden(self, moment: Moment) -> None:
        self.hidden.setdefault(moment.record.vcpu or 0, moment)

    def _erased(self, moment: Moment) -> None:
        self.erased.setdefault(moment.record.vcpu or 0, moment)

    def _created(self, moment: Moment) -> None:
        self.created.setdefault(moment.record.vcpu or 0, moment)

    def _freed(self, moment: Moment) -> None:
        vcpu = moment.record.vcpu
        assert vcpu is not None
        command = self.command_of(moment.record, vcpu)
        self.freed.setdefault(vcpu, []).append(Freeing(moment, command))

    def _step_started(self, moment: Moment) -> None:
        record = moment.record
        self.steps.setdefault(moment.actor, []).append(moment)
        name = shapes.text(record, "name")
        if name in WORKER_STEPS and record.vcpu is not None:
            command = self.command_of(record, record.vcpu)
            self.worker_steps.append(WorkerStep(moment, record.vcpu, name, command))

    def _step_finished(self, moment: Moment) -> None:
        self.steps_finished.append(moment)

    def _fault_done(self, moment: Moment) -> None:
        self.faults_done.add((moment.record.vcpu, shapes.number(moment.record, "fault")))

    def _state_freed(self, moment: Moment) -> None:
        first = self.state_freed.setdefault(shapes.text(moment.record, "state"), moment)
        if first is not moment:
            self.state_freed_again.append(moment)

    def _background_stopped(self, moment: Moment) -> None:
        self.background_stopped = self.background_stopped or moment

    def _state_read(self, moment: Moment) -> None:
        self.state_reads.append(moment)

    def _root(self, moment: Moment) -> None:
        self.roots.append(moment)

    def _page_freed(self, moment: Moment) -> None:
        self.pages_freed.append(moment)

    def _guest_entered(self, moment: Moment) -> None:
        self.guest_entered.setdefault(moment.record.vcpu or 0, moment)

    def _guest_left(self, moment: Moment) -> None:
        self.guest_left.setdefault(moment.record.vcpu or 0, moment)

    def _tlb_flushed(self, moment: Moment) -> None:
        self.tlb_flushed.setdefault(moment.record.vcpu or 0, moment)

    def _vm_created(self, moment: Moment) -> None:
        self.created_vm.append(moment)

    def _teardown_started(self, moment: Moment) -> None:
        self.teardown_started = self.teardown_started or moment

    def _teardown_stuck(self, moment: Moment) -> None:
        self.stuck.append(moment)

    def _flush_waited(self, moment: Moment) -> None:
        self.flush_waits.append(moment)

    def _vm_freed(self, moment: Moment) -> None:
        self.vm_freed = self.vm_freed or moment

    def _run_started(self, moment: Moment) -> None:
        self.run_started = moment.record

    def _run_finished(self, moment: Moment) -> None:
        self.run_finished = moment.record


_HANDLERS: Final[dict[Event, Callable[[Facts, Moment], None]]] = {
    Event.MESSAGE_SENT: Facts._sent,
    Event.MESSAGE_RECEIVED: Facts._received,
    Event.MESSAGE_ACKED: Facts._acked,
    Event.MESSAGE_REJECTED: Facts._rejected,
    Event.REQUEST_DELIVERED: Facts._delivered,
    Event.REQUEST_POSTED: Facts._posted,
    Event.DEAD_LETTER_CLASSIFIED: Facts._letter,
    Event.DEAD_LETTER_REPUBLISHED: Facts._republished,
    Event.VCPU_VISIBLE: Facts._visible,
    Event.VCPU_HIDDEN: Facts._hidden,
    Event.VCPU_ERASED: Facts._erased,
    Event.VCPU_CREATED: Facts._created,
    Event.VCPU_FREED: Facts._freed,
    Event.STEP_STARTED: Facts._step_started,
    Event.STEP_FINISHED: Facts._step_finished,
    Event.ASYNC_PF_COMPLETED: Facts._fault_done,
    Event.VM_STATE_FREED: Facts._state_freed,
    Event.BACKGROUND_STOPPED: Facts._background_stopped,
    Event.VM_STATE_READ: Facts._state_read,
    Event.ROOT_ALLOCATED: Facts._root,
    Event.ROOT_PINNED: Facts._root,
    Event.ROOT_UNPINNED: Facts._root,
    Event.ROOT_INVALIDATED: Facts._root,
    Event.ROOT_FREED: Facts._root,
    Event.PAGE_FREED: Facts._page_freed,
    Event.GUEST_ENTERED: Facts._guest_entered,
    Event.GUEST_LEFT: Facts._guest_left,
    Event.TLB_FLUSHED: Facts._tlb_flushed,
    Event.VM_CREATED: Facts._vm_created,
    Event.TEARDOWN_STARTED: Facts._teardown_started,
    Event.TEARDOWN_STUCK: Facts._teardown_stuck,
    Event.FLUSH_WAITED: Facts._flush_waited,
    Event.VM_FREED: Facts._vm_freed,
    Event.RUN_STARTED: Facts._run_started,
    Event.RUN_FINISHED: Facts._run_finished,
}


def gather(history: History, vm: str | None = None) -> Facts:
    """Return the facts about one VM; causality is that of the whole history.

    Raises:
        HistoryError: The VM is not in the history, or is not named and not the only one.
    """
    facts = Facts(history.the_vm(vm), history, order(history.records))
    for moment in facts.timeline.moments:
        record = moment.record
        if record.vm != facts.vm and not (record.vm is None and record.event in _RUN_EVENTS):
            continue
        facts.moments.append(moment)
        handler = _HANDLERS.get(record.event)
        if handler is not None:
            handler(facts, moment)
    return facts


def is_request(facts: Facts, message_id: str) -> bool:
    """Return whether a message is one that the manager posts to all visible vCPUs."""
    return facts.types.get(message_id) in REQUEST_TYPE_NAMES

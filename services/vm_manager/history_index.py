"""What the monitor remembers of the journal: who sent, freed, allocated and rejected what; pure.

Its memory is bounded: MONITOR_VMS_MAX virtual machines of which a manager has told,
MONITOR_HEARSAY_MAX of which only others have, and MONITOR_MESSAGES_MAX messages of each.
"""

from dataclasses import dataclass, field, replace

from immutables import Map
from pydantic_core import to_json

from vm_protocol import limits
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event
from vm_protocol.topology import parse_mailbox
from vm_protocol.trust import Role, role_of, worker_actor
from vm_protocol.wire import Record

MessageAtQueue = tuple[str, str]
"""(message id, queue)."""

DeathKey = tuple[str, str, str]
"""(message id, queue, the broker's reason, or that a manager out of office had sent it)."""

SENT_AGAIN = frozenset(
    {"CreateVm", "DestroyVm", "RemoveVm", "PlaceVcpu", "DestroyVcpu", "AsyncPfCompleted"}
)
"""Message types that the monitor may send once more: those of which a queue counts deliveries."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What a command's sender has recorded of it."""

    exchange: str
    routing_key: str
    body: str
    reply_to: str | None


@dataclass(frozen=True, slots=True)
class VmIndex:
    """One VM's messages by id, with what caused them, and the fates of its vCPUs.

    `owners` are the workers that the manager has accepted; `acked` and `republished` are of
    commands only. `removed` tells that the VM is gone, and no newer one of its name has been
    asked for.
    """

    causes: Map[str, str | None] = field(default_factory=Map)
    sendings: Map[str, Sending] = field(default_factory=Map)
    freed_by: Map[int, str | None] = field(default_factory=Map)
    allocated_by: Map[int, str | None] = field(default_factory=Map)
    owners: Map[int, str] = field(default_factory=Map)
    rejects: Map[MessageAtQueue, str] = field(default_factory=Map)
    requeues: Map[str, int] = field(default_factory=Map)
    acked: Map[MessageAtQueue, None] = field(default_factory=Map)
    classified: Map[DeathKey, None] = field(default_factory=Map)
    republished: Map[MessageAtQueue, None] = field(default_factory=Map)
    removed: bool = False

    def chain(self, message_id: str | None) -> tuple[str, ...]:
        """Return a message and what caused it, back to the client's command."""
        links: dict[str, None] = {}
        while message_id is not None and message_id not in links:
            if len(links) == limits.CHAIN_LINKS_MAX:
                break
            links[message_id] = None
            message_id = self.causes.get(message_id)
        return tuple(links)


@dataclass(frozen=True, slots=True)
class HistoryIndex:
    """The VMs of the journal: those that a manager has told of, oldest first, and hearsay.

    Records about a VM that no manager knows can push only other hearsay out of the memory.
    """

    vms: Map[str, VmIndex] = field(default_factory=Map)
    order: tuple[str, ...] = ()
    hearsay: tuple[str, ...] = ()

    def of(self, vm: str | None) -> VmIndex:
        """Return a VM's index; an empty one for a VM that is not known."""
        return self.vms.get(vm or "", VmIndex())

    def read(self, record: Record) -> "HistoryIndex":
        """Return the index with a record taken in."""
        if record.vm is None or record.event not in _RULES:
            return self
        before = self.of(record.vm)
        after = _RULES[record.event](before, record)
        if after is before:
            return self
        # The manager's first word about a VM turns it from hearsay into one that is vouched for.
        is_vouched = role_of(record.actor) == Role.MANAGER
        if record.vm in self.vms and not (is_vouched and record.vm in self.hearsay):
            index = replace(self, vms=self.vms.set(record.vm, after))
            return index._bounded() if record.event == Event.VM_REMOVED else index
        return self._with(record.vm, after, is_vouched=is_vouched)._bounded()

    def tell(self, vm: str | None, after: VmIndex) -> "HistoryIndex":
        """Return the index with what was concluded of a VM; of an unknown one, nothing is kept."""
        if vm not in self.vms:
            return self
        return replace(self, vms=self.vms.set(vm or "", after))

    def _with(self, vm: str, after: VmIndex, *, is_vouched: bool) -> "HistoryIndex":
        vms, order, hearsay = self.vms.set(vm, after), self.order, self.hearsay
        if is_vouched:
            order, hearsay = (*order, vm), tuple(name for name in hearsay if name != vm)
        else:
            hearsay = (*hearsay, vm)
        return HistoryIndex(vms, order, hearsay)

    def _bounded(self) -> "HistoryIndex":
        # Removed VMs are forgotten first: only late dead letters can still ask for them.
        removed = [name for name in self.order if self.vms[name].removed]
        if len(removed) > limits.MONITOR_REMOVED_MAX or (
            removed and len(self.order) > limits.MONITOR_VMS_MAX
        ):
            return self._without(removed[0])
        if len(self.order) > limits.MONITOR_VMS_MAX:
            return self._without(self.order[0])
        if len(self.hearsay) > limits.MONITOR_HEARSAY_MAX:
            return self._without(self.hearsay[0])
        return self

    def _without(self, vm: str) -> "HistoryIndex":
        order = tuple(name for name in self.order if name != vm)
        hearsay = tuple(name for name in self.hearsay if name != vm)
        return HistoryIndex(self.vms.delete(vm), order, hearsay)


def _sent(index: VmIndex, record: Record) -> VmIndex:
    if record.message_id is None:
        return index
    kind = str(record.details.get("type"))
    if kind == "CreateVm":
        index = replace(index, removed=False)
    if kind == "PlacementAnswered":
        index = _accepted(index, record)
    # Sent again after a lost connection: the first sending counts.
    if record.message_id in index.causes:
        return index
    if len(index.causes) >= limits.MONITOR_MESSAGES_MAX:
        return index
    if kind in SENT_AGAIN:
        sending = Sending(
            str(record.details["exchange"]),
            str(record.details["routing_key"]),
            _as_text(record.details["body"]),
            record.details.get("reply_to"),
        )
        index = replace(index, sendings=index.sendings.set(record.message_id, sending))
    return replace(index, causes=index.causes.set(record.message_id, record.caused_by))


def _as_text(body: object) -> str:
    return to_json(body).decode()


def _accepted(index: VmIndex, record: Record) -> VmIndex:
    """Take note of the worker that the manager says a vCPU belongs to."""
    body = record.details["body"]
    if not body["accepted"]:
        return index
    return replace(index, owners=index.owners.set(body["vcpu"], worker_actor(body["worker"])))


def _is_owner(index: VmIndex, vcpu: int | None, record: Record) -> bool:
    """Tell whether a worker may speak of a vCPU: until the manager has told, any may."""
    owner = None if vcpu is None else index.owners.get(vcpu)
    return owner is None or owner == record.actor


def _freed(index: VmIndex, record: Record) -> VmIndex:
    if not _is_owner(index, record.vcpu, record):
        return index
    command = record.message_id or record.caused_by
    return replace(index, freed_by=index.freed_by.set(record.vcpu or 0, command))


def _created(index: VmIndex, record: Record) -> VmIndex:
    """Begin a vCPU's life; an earlier one of that number, in a VM of that name, is over."""
    if not _is_owner(index, record.vcpu, record):
        return index
    vcpu = record.vcpu or 0
    freed_by = index.freed_by.delete(vcpu) if vcpu in index.freed_by else index.freed_by
    allocated_by = index.allocated_by.set(vcpu, record.caused_by)
    return replace(index, freed_by=freed_by, allocated_by=allocated_by)


def _rejected(index: VmIndex, record: Record) -> VmIndex:
    message_id, queue = record.message_id or "", str(record.details.get("queue"))
    mailbox = parse_mailbox(queue)
    if mailbox is not None and not _is_owner(index, mailbox.vcpu, record):
        return index
    if max(len(index.rejects), len(index.requeues)) >= limits.MONITOR_REJECTS_MAX:
        return index
    if record.details.get("requeue"):
        count = index.requeues.get(message_id, 0) + 1
        return replace(index, requeues=index.requeues.set(message_id, count))
    delivery, reason = (message_id, queue), str(record.details.get("reason"))
    # Of two messages of one id, the one that a manager in office sent is told: it may be a finding.
    if reason == RejectReason.STALE_EPOCH and delivery in index.rejects:
        return index
    return replace(index, rejects=index.rejects.set(delivery, reason))


def _acked(index: VmIndex, record: Record) -> VmIndex:
    if record.message_id is None or record.message_id not in index.sendings:
        return index
    delivery = (record.message_id, str(record.details.get("queue")))
    return replace(index, acked=index.acked.set(delivery, None))


def death_key(message_id: str, queue: str, reason: str, why: str) -> DeathKey:
    """Return what tells a death from others."""
    return message_id, queue, why if why == RejectReason.STALE_EPOCH else reason


def _classified(index: VmIndex, record: Record) -> VmIndex:
    queue, reason = str(record.details.get("queue")), str(record.details.get("reason"))
    why = str(record.details.get("why"))
    death = death_key(record.message_id or "", queue, reason, why)
    return replace(index, classified=index.classified.set(death, None))


def _republished(index: VmIndex, record: Record) -> VmIndex:
    delivery = (record.message_id or "", str(record.details.get("queue")))
    return replace(index, republished=index.republished.set(delivery, None))


def _removed(index: VmIndex, record: Record) -> VmIndex:
    """Mark the VM as removed, but keep it: dead letters may still be on their way."""
    return replace(index, removed=True)


_RULES = {
    Event.DEAD_LETTER_CLASSIFIED: _classified,
    Event.DEAD_LETTER_REPUBLISHED: _republished,
    Event.MESSAGE_SENT: _sent,
    Event.MESSAGE_ACKED: _acked,
    Event.MESSAGE_REJECTED: _rejected,
    Event.VCPU_FREED: _freed,
    Event.VCPU_CREATED: _created,
    Event.VM_REMOVED: _removed,
}

READ_BY_INDEX = frozenset(_RULES)
"""The events that an index takes in."""

"""What the monitor remembers of the journal: who sent, freed, allocated and rejected what; pure.

Bounded: MONITOR_VMS_MAX virtual machines, MONITOR_MESSAGES_MAX messages of each.
"""

from dataclasses import dataclass, field, replace

from immutables import Map

from vm_protocol import limits
from vm_protocol.observations import Event
from vm_protocol.wire import Record

Delivery = tuple[str, str]
"""(message id, queue)."""

Death = tuple[str, str, str]
"""(message id, queue, the broker's reason)."""


@dataclass(frozen=True, slots=True)
class VmIndex:
    """One VM's messages by id, with what caused them, and the fates of its vCPUs."""

    causes: Map[str, str | None] = field(default_factory=Map)
    freed_by: Map[int, str | None] = field(default_factory=Map)
    allocated_by: Map[int, str | None] = field(default_factory=Map)
    rejects: Map[Delivery, str] = field(default_factory=Map)
    requeues: Map[str, int] = field(default_factory=Map)
    classified: Map[Death, None] = field(default_factory=Map)

    def chain(self, message_id: str | None) -> tuple[str, ...]:
        """Return a message and what caused it, back to the client's command."""
        links: list[str] = []
        while message_id is not None and message_id not in links:
            links.append(message_id)
            message_id = self.causes.get(message_id)
        return tuple(links)


@dataclass(frozen=True, slots=True)
class HistoryIndex:
    """The VMs of the journal, oldest first."""

    vms: Map[str, VmIndex] = field(default_factory=Map)
    order: tuple[str, ...] = ()

    def of(self, vm: str | None) -> VmIndex:
        """Return a VM's index; an empty one for a VM that is not known."""
        return self.vms.get(vm or "", VmIndex())

    def read(self, record: Record) -> "HistoryIndex":
        """Return the index with a record taken in."""
        if record.vm is None or record.event not in _RULES:
            return self
        if record.event == Event.VM_REMOVED:
            return self  # dead letters may still be on their way; the bound forgets it
        known = record.vm in self.vms
        vms = self.vms.set(record.vm, _read(self.of(record.vm), record))
        order = self.order if known else (*self.order, record.vm)
        if len(order) > limits.MONITOR_VMS_MAX:
            vms, order = vms.delete(order[0]), order[1:]
        return HistoryIndex(vms, order)

    def classify(self, vm: str | None, death: Death) -> "HistoryIndex":
        """Return the index with a death told; of a VM that is not known, none is remembered."""
        index = self.vms.get(vm or "")
        if index is None:
            return self
        told = replace(index, classified=index.classified.set(death, None))
        return replace(self, vms=self.vms.set(vm or "", told))


def _read(index: VmIndex, record: Record) -> VmIndex:
    return _RULES[record.event](index, record)


def _sent(index: VmIndex, record: Record) -> VmIndex:
    if record.message_id is None or len(index.causes) >= limits.MONITOR_MESSAGES_MAX:
        return index
    if record.message_id in index.causes:
        return index
    return replace(index, causes=index.causes.set(record.message_id, record.caused_by))


def _freed(index: VmIndex, record: Record) -> VmIndex:
    command = record.message_id or record.caused_by
    return replace(index, freed_by=index.freed_by.set(record.vcpu or 0, command))


def _created(index: VmIndex, record: Record) -> VmIndex:
    """Begin a vCPU's life; an earlier one of that number, in a VM of that name, is over."""
    vcpu = record.vcpu or 0
    freed_by = index.freed_by.delete(vcpu) if vcpu in index.freed_by else index.freed_by
    allocated_by = index.allocated_by.set(vcpu, record.caused_by)
    return replace(index, freed_by=freed_by, allocated_by=allocated_by)


def _rejected(index: VmIndex, record: Record) -> VmIndex:
    message_id = record.message_id or ""
    if record.details.get("requeue"):
        count = index.requeues.get(message_id, 0) + 1
        return replace(index, requeues=index.requeues.set(message_id, count))
    delivery = (message_id, str(record.details.get("queue")))
    rejects = index.rejects.set(delivery, str(record.details.get("reason")))
    return replace(index, rejects=rejects)


def _classified(index: VmIndex, record: Record) -> VmIndex:
    queue, reason = str(record.details.get("queue")), str(record.details.get("reason"))
    death = (record.message_id or "", queue, reason)
    return replace(index, classified=index.classified.set(death, None))


_RULES = {
    Event.DEAD_LETTER_CLASSIFIED: _classified,
    Event.MESSAGE_SENT: _sent,
    Event.MESSAGE_REJECTED: _rejected,
    Event.VCPU_FREED: _freed,
    Event.VCPU_CREATED: _created,
}

READ_BY_INDEX = frozenset(_RULES)
"""The events that an index takes in."""

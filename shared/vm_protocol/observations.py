"""The one vocabulary of events that history, logs, metrics and spans share.

A core emits `Observed(event, ...)`; drivers add what happens to messages. The table EVENTS says
what each event means and which details it carries; a test holds code and table together.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

Detail = str | int | bool | None | tuple[str, ...] | tuple[int, ...] | dict[str, Any]


class Event(StrEnum):
    """Names of events: noun, dot, past verb."""

    # messages (added by the drivers)
    MESSAGE_SENT = "message.sent"
    MESSAGE_RECEIVED = "message.received"
    MESSAGE_ACKED = "message.acked"
    MESSAGE_REJECTED = "message.rejected"
    MESSAGE_RETURNED = "message.returned"
    MESSAGE_SKIPPED = "message.skipped"
    # the VM (manager)
    MANAGER_TOOK_OVER = "manager.took-over"
    VM_CREATED = "vm.created"
    VM_FREED = "vm.freed"
    VM_REMOVED = "vm.removed"
    TEARDOWN_STARTED = "teardown.started"
    TEARDOWN_STUCK = "teardown.stuck"
    STEP_STARTED = "step.started"
    STEP_FINISHED = "step.finished"
    BACKGROUND_STOPPED = "background.stopped"
    VM_STATE_FREED = "vm_state.freed"
    VM_STATE_READ = "vm_state.read"
    # the MMU's roots (manager)
    ROOT_ALLOCATED = "root.allocated"
    ROOT_PINNED = "root.pinned"
    ROOT_UNPINNED = "root.unpinned"
    ROOT_INVALIDATED = "root.invalidated"
    ROOT_FREED = "root.freed"
    PAGE_FREED = "page.freed"
    # requests (manager posts, workers take)
    REQUEST_POSTED = "request.posted"
    REQUEST_DELIVERED = "request.delivered"
    REQUEST_DUPLICATED = "request.duplicated"
    FLUSH_WAITED = "flush.waited"
    # vCPUs
    GUEST_ENTERED = "guest.entered"
    GUEST_LEFT = "guest.left"
    TLB_FLUSHED = "tlb.flushed"
    VCPU_VISIBLE = "vcpu.visible"
    VCPU_HIDDEN = "vcpu.hidden"
    VCPU_ERASED = "vcpu.erased"
    VCPU_CREATED = "vcpu.created"
    VCPU_FREED = "vcpu.freed"
    VCPU_FORGOTTEN = "vcpu.forgotten"
    ASYNC_PF_COMPLETED = "async_pf.completed"
    FENCE_WAITED = "fence.waited"
    # workers (the manager loses one; one that was paused knows that it was lost)
    HOST_LOST = "host.lost"
    HOST_LAPSED = "host.lapsed"
    # the monitor
    REQUEST_COMPLETED = "request.completed"
    DEAD_LETTER_ARRIVED = "dead_letter.arrived"
    DEAD_LETTER_CLASSIFIED = "dead_letter.classified"
    DEAD_LETTER_REPUBLISHED = "dead_letter.republished"
    # the lab
    RUN_STARTED = "run.started"
    RUN_FINISHED = "run.finished"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an event says, and the names of its details."""

    text: str
    details: tuple[str, ...] = ()


EVENTS: Final[dict[Event, Meaning]] = {
    Event.MESSAGE_SENT: Meaning(
        "a service publishes a message; `body` is all of it, `reply_to` gets the answer",
        ("type", "exchange", "routing_key", "body", "reply_to"),
    ),
    Event.MESSAGE_RECEIVED: Meaning(
        "a delivery reaches a service's core; a request's with its `generation`",
        ("type", "queue", "redelivered", "generation"),
    ),
    Event.MESSAGE_ACKED: Meaning("a delivery is acknowledged", ("type", "queue")),
    Event.MESSAGE_REJECTED: Meaning(
        "a delivery is rejected, with or without requeue",
        ("type", "queue", "reason", "requeue", "place"),
    ),
    Event.MESSAGE_RETURNED: Meaning(
        "a mandatory message matched no queue", ("type", "exchange", "routing_key")
    ),
    Event.MESSAGE_SKIPPED: Meaning(
        "a delivery that cannot be dead-lettered is no message of ours", ("queue", "place")
    ),
    Event.MANAGER_TOOK_OVER: Meaning(
        "a manager goes on with a living VM of its predecessor's: the epoch before, the last entry "
        "of its log that counts, how many records it had made by then, and how many entries were "
        "performed again",
        ("predecessor", "entry", "seq", "repeated"),
    ),
    Event.VM_CREATED: Meaning("every vCPU is placed", ("scenario", "workers")),
    Event.VM_FREED: Meaning("the last step ended: the VM's memory is gone"),
    Event.VM_REMOVED: Meaning("its mailboxes are being deleted, tombstones end with them"),
    Event.TEARDOWN_STARTED: Meaning("DestroyVm is taken up", ("ordering",)),
    Event.TEARDOWN_STUCK: Meaning("a step cannot end; later steps do not run", ("why",)),
    Event.STEP_STARTED: Meaning("a step of the ordering begins", ("name",)),
    Event.STEP_FINISHED: Meaning("a step of the ordering ends", ("name",)),
    Event.BACKGROUND_STOPPED: Meaning("the ticker and the PIT are stopped"),
    Event.VM_STATE_FREED: Meaning("VM-level state is freed", ("state",)),
    Event.VM_STATE_READ: Meaning("a vCPU's step touches VM-level state", ("state", "freed")),
    Event.ROOT_ALLOCATED: Meaning("a root joins the VM's list", ("root", "mmu")),
    Event.ROOT_PINNED: Meaning("a vCPU's slot pins a root", ("root", "context", "slot")),
    Event.ROOT_UNPINNED: Meaning("a vCPU's slot releases a root", ("root", "context", "slot")),
    Event.ROOT_INVALIDATED: Meaning("zap-all makes a pinned root invalid", ("root",)),
    Event.ROOT_FREED: Meaning("a root is freed; `pins` are left on it", ("root", "by", "pins")),
    Event.PAGE_FREED: Meaning(
        "the page that a root mapped is freed, after zap-all's flush", ("root",)
    ),
    Event.FLUSH_WAITED: Meaning(
        "the manager waits for acknowledgements of a flush", ("generation", "missing")
    ),
    Event.GUEST_ENTERED: Meaning("a vCPU is in its guest; its TLB holds `pages`", ("pages",)),
    Event.GUEST_LEFT: Meaning("a vCPU leaves its guest, and does not enter again"),
    Event.TLB_FLUSHED: Meaning("a vCPU in guest drops its translations", ("pages",)),
    Event.REQUEST_POSTED: Meaning(
        "a request is raised; without recipients nothing is published",
        ("kind", "by", "generation", "recipients"),
    ),
    Event.REQUEST_DELIVERED: Meaning(
        "a worker sees a request for the first time", ("kind", "generation", "outcome")
    ),
    Event.REQUEST_DUPLICATED: Meaning(
        "a worker sees a request again and acknowledges it", ("kind", "generation")
    ),
    Event.VCPU_VISIBLE: Meaning("the mailbox is bound", ("mailbox",)),
    Event.VCPU_HIDDEN: Meaning("a hole before this vCPU makes it unreachable", ("hole",)),
    Event.VCPU_ERASED: Meaning("the vCPU leaves the array; the mailbox is unbound"),
    Event.VCPU_CREATED: Meaning("a worker owns the vCPU"),
    Event.VCPU_FREED: Meaning(
        "the state is dropped by the command `message_id`; a tombstone stays", ("generation",)
    ),
    Event.VCPU_FORGOTTEN: Meaning("the tombstone ends with its mailbox", ("freed",)),
    Event.ASYNC_PF_COMPLETED: Meaning("an async page fault is done", ("fault", "how")),
    Event.FENCE_WAITED: Meaning("a free waits for its mailbox", ("generation", "consumed")),
    Event.HOST_LOST: Meaning(
        "the manager counts a worker as lost, and the VM's `vcpus` that it had; `reason` is silent "
        "or drained",
        ("worker", "reason", "vcpus"),
    ),
    Event.HOST_LAPSED: Meaning(
        "a worker was paused for longer than its lease, and has dropped its `vcpus` of the VM",
        ("vcpus",),
    ),
    Event.REQUEST_COMPLETED: Meaning(
        "every recipient has acknowledged or rejected a request", ("kind", "round_trip_ns")
    ),
    Event.DEAD_LETTER_ARRIVED: Meaning(
        "a dead letter waits until the monitor has read the journal up to this record", ("letter",)
    ),
    Event.DEAD_LETTER_CLASSIFIED: Meaning(
        "a dead letter is told by reason, invariant and message chains",
        ("reason", "queue", "invariant", "why", "used_by", "freed_by", "allocated_by"),
    ),
    Event.DEAD_LETTER_REPUBLISHED: Meaning(
        "lost connections reached the delivery limit: sent once more", ("queue",)
    ),
    Event.RUN_STARTED: Meaning(
        "a run begins; `whole`: the file has every record of its actors, so a gap is a loss; "
        "`lines`: of the ordering's steps in its YAML, loops' steps one by one",
        ("broker", "source", "ordering", "scenario", "whole", "lines"),
    ),
    Event.RUN_FINISHED: Meaning(
        "a run ends; `outcome` is settled, timed-out-alive, timed-out, lost or interrupted, "
        "`missing` are who or what was gone, as sentences",
        ("outcome", "timeout_ms", "missing"),
    ),
}

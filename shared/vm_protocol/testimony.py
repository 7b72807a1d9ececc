"""Who may say what in the journal: the table of witnesses, and the check; pure.

`vm_protocol.trust` checks that a record's actor belongs to the user who sent it, for whom the
broker vouches. This file checks that the actor can know what the record says: a client, for
example, cannot see that a vCPU was freed, and no actor can see what another's queue held.
"""

from collections.abc import Mapping
from typing import Final

from vm_protocol import topology
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.observations import Event
from vm_protocol.topology import parse_mailbox
from vm_protocol.trust import SENDERS, Role, role_of, worker_of
from vm_protocol.wire import Record

_MANAGER: Final = frozenset({Role.MANAGER})
_WORKER: Final = frozenset({Role.WORKER})
_MONITOR: Final = frozenset({Role.MONITOR})
_CLIENT: Final = frozenset({Role.CLIENT})
_EVERYBODY: Final = frozenset(Role)

WITNESSES: Final[Mapping[Event, frozenset[Role]]] = {
    **dict.fromkeys(
        (
            Event.MESSAGE_SENT,
            Event.MESSAGE_RECEIVED,
            Event.MESSAGE_ACKED,
            Event.MESSAGE_REJECTED,
            Event.MESSAGE_RETURNED,
            Event.MESSAGE_SKIPPED,
        ),
        _EVERYBODY,
    ),
    **dict.fromkeys((Event.STEP_STARTED, Event.STEP_FINISHED), _MANAGER | _WORKER),
    **dict.fromkeys(
        (
            Event.MANAGER_TOOK_OVER,
            Event.VM_CREATED,
            Event.VM_FREED,
            Event.VM_REMOVED,
            Event.TEARDOWN_STARTED,
            Event.TEARDOWN_STUCK,
            Event.BACKGROUND_STOPPED,
            Event.VM_STATE_FREED,
            Event.VM_STATE_READ,
            Event.ROOT_ALLOCATED,
            Event.ROOT_PINNED,
            Event.ROOT_UNPINNED,
            Event.ROOT_INVALIDATED,
            Event.ROOT_FREED,
            Event.PAGE_FREED,
            Event.REQUEST_POSTED,
            Event.FLUSH_WAITED,
            Event.VCPU_VISIBLE,
            Event.VCPU_HIDDEN,
            Event.VCPU_ERASED,
            Event.HOST_LOST,
        ),
        _MANAGER,
    ),
    **dict.fromkeys(
        (
            Event.REQUEST_DELIVERED,
            Event.REQUEST_DUPLICATED,
            Event.GUEST_ENTERED,
            Event.GUEST_LEFT,
            Event.TLB_FLUSHED,
            Event.VCPU_CREATED,
            Event.VCPU_FREED,
            Event.VCPU_FORGOTTEN,
            Event.ASYNC_PF_COMPLETED,
            Event.FENCE_WAITED,
            Event.HOST_LAPSED,
        ),
        _WORKER,
    ),
    **dict.fromkeys(
        (
            Event.REQUEST_COMPLETED,
            Event.DEAD_LETTER_ARRIVED,
            Event.DEAD_LETTER_CLASSIFIED,
            Event.DEAD_LETTER_REPUBLISHED,
        ),
        _MONITOR,
    ),
    **dict.fromkeys((Event.RUN_STARTED, Event.RUN_FINISHED), _CLIENT),
}
"""Event -> the roles that see it happen."""

_SETTLED: Final = frozenset({Event.MESSAGE_ACKED, Event.MESSAGE_REJECTED})


def check(record: Record) -> None:
    """Pass a record that its actor can know of.

    Raises:
        RemoteProtocolError: FORGED: it is another's to say.
    """
    role = role_of(record.actor)
    if role is None or not _may_say(role, record):
        place = f"{record.event} is not {record.actor}'s to say"
        raise RemoteProtocolError(RejectReason.FORGED, place[:200])


def _may_say(role: Role, record: Record) -> bool:
    if role not in WITNESSES[record.event]:
        return False
    if record.event == Event.MESSAGE_SENT:
        # Who may send a type of message may also say that it did.
        return role in SENDERS.get(str(record.details.get("type")), frozenset())
    if record.event in _SETTLED:
        return _consumes(role, record)
    return True


def _consumes(role: Role, record: Record) -> bool:
    """Tell whether a queue is one that an actor takes messages from."""
    queue = str(record.details.get("queue"))
    match role:
        case Role.MANAGER:
            own = (topology.MANAGER_COMMANDS_QUEUE.name, topology.MANAGER_REPLIES_QUEUE.name)
            return queue in own
        case Role.WORKER:
            worker = worker_of(record.actor) or ""
            queues = (topology.worker_commands(worker), topology.worker_replies(worker))
            shared = queue == topology.PLACEMENT_QUEUE.name or parse_mailbox(queue) is not None
            return shared or queue in (each.name for each in queues)
        case Role.CLIENT:
            return queue.startswith("client.")
        case Role.MONITOR:
            return False

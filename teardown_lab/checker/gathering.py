"""Gathers the facts of one VM from its history: one small function for each event.

What a service says and what follows from other records are kept apart. A step that ended without
the record that it must leave (a free, an erase, a cleared fault) is noted by `evidence/steps.py`.
"""

from collections.abc import Callable
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import (
    TYPE_OF_KIND,
    Answer,
    DeliveryId,
    Facts,
    Freeing,
    StepBegun,
)
from teardown_lab.checker.happens_before import Moment, order
from teardown_lab.checker.history import History
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event
from vm_protocol.ordering import WORKER_STEPS
from vm_protocol.topology import parse_mailbox

_RUN_EVENTS: Final = (Event.RUN_STARTED, Event.RUN_FINISHED)


def _sent(facts: Facts, moment: Moment) -> None:
    message_id = moment.record.message_id or ""
    first = facts.messages.sent.setdefault(message_id, moment)
    if first is not moment:
        # Sent again after a lost connection is fine; one id with two bodies is a contradiction.
        if not _is_same_message(first, moment):
            facts.messages.sent_differently.append(message_id)
        return
    facts.messages.types[message_id] = shapes.text(moment.record, "type")
    body = shapes.body(moment.record)
    facts.messages.vcpu_of[message_id] = body.number("vcpu")
    if facts.messages.types[message_id] == "PlaceVcpu":
        facts.guests.faults_placed[body.number("vcpu")] = body.number("async_pf")
    if facts.messages.types[message_id] == "VcpuStepsDone":
        _answered(facts, moment, body)
    if facts.messages.types[message_id] == "AsyncPfCompleted":
        facts.guests.faults_done.add((body.number("vcpu"), body.number("fault")))


def _is_same_message(first: Moment, again: Moment) -> bool:
    """Tell whether a message says again what it said first.

    The answer to an unload that came twice names the newest request of its own moment: a fence may
    be later the second time, and the worker, which has gone on, waits for neither.
    """
    said, repeated = first.record.details.get("body"), again.record.details.get("body")
    if shapes.text(first.record, "type") != "UnloadDone":
        return said == repeated
    earlier = shapes.body(first.record).number("generation")
    later = shapes.body(again.record).number("generation")
    if not isinstance(said, dict) or earlier is None or later is None or later < earlier:
        return False
    return {**said, "generation": later} == repeated


def _answered(facts: Facts, moment: Moment, body: shapes.Body) -> None:
    """Take a worker's answer to a command; one whose body contradicts its id does not count."""
    command = shapes.answered_command(moment.record)
    if command:
        facts.messages.answers[command] = Answer(body.text("outcome"), moment)


def _received(facts: Facts, moment: Moment) -> None:
    record = moment.record
    message_id = record.message_id or ""
    facts.messages.types.setdefault(message_id, shapes.text(record, "type"))
    mailbox = parse_mailbox(shapes.text(record, "queue"))
    if mailbox is not None:
        facts.deliveries.taken[message_id, mailbox.vcpu] += 1
        facts.deliveries.in_mailboxes.setdefault((message_id, mailbox.vcpu), moment)
        return
    vcpu = facts.messages.vcpu_of.setdefault(message_id, record.vcpu)
    first = facts.deliveries.arrivals.setdefault((message_id, vcpu), moment)
    if first is moment and facts.messages.types[message_id] == "DestroyVcpu" and vcpu is not None:
        # From now on, what the worker does to this vCPU belongs to this command.
        facts.steps.running[vcpu] = message_id


def _acked(facts: Facts, moment: Moment) -> None:
    _settle(facts, facts.deliveries.acked, moment)


def _rejected(facts: Facts, moment: Moment) -> None:
    if not moment.record.message_id:
        return
    requeue = bool(moment.record.details.get("requeue", False))
    _settle(facts, facts.deliveries.requeued if requeue else facts.deliveries.rejected, moment)


def _settle(facts: Facts, into: dict[DeliveryId, Moment], moment: Moment) -> None:
    delivery = facts.messages.delivery(moment.record)
    if delivery not in facts.deliveries.in_mailboxes and delivery not in facts.deliveries.arrivals:
        # Settled and never received: a record is missing (completeness.py says so).
        facts.deliveries.unknown_settles.append(moment)
    into.setdefault(delivery, moment)


def _delivered(facts: Facts, moment: Moment) -> None:
    record = moment.record
    generation = shapes.number(record, "generation")
    message_id = record.message_id or record.caused_by or f"request/{generation}"
    kind = shapes.text(record, "kind")
    facts.messages.types.setdefault(message_id, TYPE_OF_KIND.get(kind, kind))
    delivery = (message_id, record.vcpu)
    facts.deliveries.outcomes.setdefault(delivery, []).append(shapes.text(record, "outcome"))
    facts.deliveries.in_mailboxes.setdefault(delivery, moment)


def _duplicated(facts: Facts, moment: Moment) -> None:
    record = moment.record
    facts.deliveries.duplicated.add((record.message_id or record.caused_by or "", record.vcpu))


def _posted(facts: Facts, moment: Moment) -> None:
    message_id = moment.record.message_id
    if message_id is not None:
        first = facts.requests.post_of.setdefault(message_id, moment)
        if first is not moment:
            same = first.record.details == moment.record.details
            (facts.requests.posted_again if same else facts.requests.ambiguous).append(message_id)
            return
        kind = shapes.text(moment.record, "kind")
        facts.messages.types.setdefault(message_id, TYPE_OF_KIND.get(kind, kind))
    facts.requests.posts.append(moment)


def _freed(facts: Facts, moment: Moment) -> None:
    vcpu = moment.record.vcpu
    assert vcpu is not None
    command = facts.command_of(moment.record, vcpu)
    facts.memory.freed.setdefault(vcpu, []).append(Freeing(moment, command))


def _host_lost(facts: Facts, moment: Moment) -> None:
    facts.hosts.lost.append(moment)
    for vcpu in shapes.numbers(moment.record, "vcpus"):
        facts.hosts.vcpus.setdefault(vcpu, moment)
        # Nobody ran its step, but from here on it is out of the array as after an erase.
        facts.array.erased.setdefault(vcpu, moment)


def _visible(facts: Facts, moment: Moment) -> None:
    vcpu = moment.record.vcpu
    assert vcpu is not None
    if vcpu in facts.array.erased:
        facts.array.shown_again.append(moment)
    facts.array.visible.setdefault(vcpu, moment)


def _step_started(facts: Facts, moment: Moment) -> None:
    record = moment.record
    facts.steps.by_actor.setdefault(moment.actor, []).append(moment)
    name = shapes.text(record, "name")
    if name in WORKER_STEPS and record.vcpu is not None:
        command = facts.command_of(record, record.vcpu)
        facts.steps.by_workers.append(StepBegun(moment, record.vcpu, name, command))


def _fault_done(facts: Facts, moment: Moment) -> None:
    facts.guests.faults_done.add((moment.record.vcpu, shapes.number(moment.record, "fault")))


def _state_freed(facts: Facts, moment: Moment) -> None:
    first = facts.vm_state.freed.setdefault(shapes.text(moment.record, "state"), moment)
    if first is not moment:
        facts.vm_state.freed_again.append(moment)


def _lettered(facts: Facts, moment: Moment) -> None:
    record = moment.record
    delivery = (record.message_id or "", shapes.text(record, "queue"))
    says_stale = shapes.text(record, "why") == RejectReason.STALE_EPOCH
    if says_stale and delivery in facts.timeline.stale_rejects:
        facts.deliveries.stale_letters.append(moment)
    else:
        facts.deliveries.letters.append(moment)


_HANDLERS: Final[dict[Event, Callable[[Facts, Moment], None]]] = {
    Event.MESSAGE_SENT: _sent,
    Event.MESSAGE_RECEIVED: _received,
    Event.MESSAGE_ACKED: _acked,
    Event.MESSAGE_REJECTED: _rejected,
    Event.REQUEST_DELIVERED: _delivered,
    Event.REQUEST_DUPLICATED: _duplicated,
    Event.REQUEST_POSTED: _posted,
    Event.VCPU_VISIBLE: _visible,
    Event.HOST_LOST: _host_lost,
    Event.VCPU_FREED: _freed,
    Event.STEP_STARTED: _step_started,
    Event.ASYNC_PF_COMPLETED: _fault_done,
    Event.VM_STATE_FREED: _state_freed,
    Event.DEAD_LETTER_CLASSIFIED: _lettered,
}
"""Events that say more than that something happened, or need others to be understood."""


def _kept(facts: Facts) -> dict[Event, list[Moment]]:
    """Return where every moment of an event is kept."""
    roots = facts.mmu.roots
    return {
        Event.BACKGROUND_STOPPED: facts.vm_state.background_stops,
        Event.VM_STATE_READ: facts.vm_state.reads,
        Event.ROOT_ALLOCATED: roots,
        Event.ROOT_PINNED: roots,
        Event.ROOT_UNPINNED: roots,
        Event.ROOT_INVALIDATED: roots,
        Event.ROOT_FREED: roots,
        Event.PAGE_FREED: facts.mmu.pages_freed,
        Event.VM_CREATED: facts.life.created,
        Event.TEARDOWN_STARTED: facts.life.teardowns,
        Event.TEARDOWN_STUCK: facts.life.stuck,
        Event.FLUSH_WAITED: facts.requests.flush_waits,
        Event.VM_FREED: facts.life.frees,
        Event.VM_REMOVED: facts.life.removals,
        Event.MANAGER_TOOK_OVER: facts.life.takeovers,
        Event.RUN_STARTED: facts.run.starts,
        Event.RUN_FINISHED: facts.run.ends,
    }


def _firsts(facts: Facts) -> dict[Event, dict[int, Moment]]:
    """Return where the first moment of an event is kept, for each vCPU."""
    return {
        Event.VCPU_HIDDEN: facts.array.hidden,
        Event.VCPU_ERASED: facts.array.erased,
        Event.VCPU_CREATED: facts.memory.created,
        Event.GUEST_ENTERED: facts.guests.entered,
        Event.GUEST_LEFT: facts.guests.left,
        Event.TLB_FLUSHED: facts.guests.tlb_flushed,
    }


def gather(history: History, vm: str | None = None) -> Facts:
    """Return the facts about one VM; causality is that of the whole history.

    Raises:
        HistoryError: The VM is not in the history, or is not named and not the only one.
    """
    facts = Facts(history.the_vm(vm), history, order(history.records))
    kept, firsts = _kept(facts), _firsts(facts)
    for moment in facts.timeline.moments:
        record = moment.record
        # The order was made from all records, as the same services also serve other VMs.
        if record.vm != facts.vm and not (record.vm is None and record.event in _RUN_EVENTS):
            continue
        facts.moments.append(moment)
        if record.event in kept:
            kept[record.event].append(moment)
        elif record.event in firsts:
            firsts[record.event].setdefault(record.vcpu or 0, moment)
        elif record.event in _HANDLERS:
            _HANDLERS[record.event](facts, moment)
    return facts

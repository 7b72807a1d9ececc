"""Gathers the facts of one VM from its history: one small function for each event.

What a service says and what follows from other records are kept apart; where a record is missing
that a step's own frame implies (a free, an erase, a cleared fault), the step's end stands for it.
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
from vm_protocol.observations import Event
from vm_protocol.ordering import WORKER_STEPS
from vm_protocol.topology import parse_mailbox

_RUN_EVENTS: Final = (Event.RUN_STARTED, Event.RUN_FINISHED)


def _sent(facts: Facts, moment: Moment) -> None:
    message_id = moment.record.message_id or ""
    first = facts.sent.setdefault(message_id, moment)
    if first is not moment:
        # Sent again after a lost connection is fine; one id with two bodies is a contradiction.
        if not _is_same_message(first, moment):
            facts.sent_again.append(message_id)
        return
    facts.types[message_id] = shapes.text(moment.record, "type")
    body = shapes.body(moment.record)
    facts.vcpu_of[message_id] = body.number("vcpu")
    if facts.types[message_id] == "PlaceVcpu":
        facts.placed_faults[body.number("vcpu")] = body.number("async_pf")
    if facts.types[message_id] == "VcpuStepsDone":
        _answered(facts, moment, body)
    if facts.types[message_id] == "AsyncPfCompleted":
        facts.faults_done.add((body.number("vcpu"), body.number("fault")))


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
    """Take a worker's answer to a command; one that does not say what its id says is none."""
    command = shapes.answered_command(moment.record)
    if command:
        facts.answers[command] = Answer(body.text("outcome"), moment)


def _received(facts: Facts, moment: Moment) -> None:
    record = moment.record
    message_id = record.message_id or ""
    facts.types.setdefault(message_id, shapes.text(record, "type"))
    mailbox = parse_mailbox(shapes.text(record, "queue"))
    if mailbox is not None:
        facts.mailbox_received[message_id, mailbox.vcpu] += 1
        facts.mailbox_arrivals.setdefault((message_id, mailbox.vcpu), moment)
        return
    vcpu = facts.vcpu_of.setdefault(message_id, record.vcpu)
    first = facts.arrivals.setdefault((message_id, vcpu), moment)
    if first is moment and facts.types[message_id] == "DestroyVcpu" and vcpu is not None:
        # From now on, what the worker does to this vCPU belongs to this command.
        facts.running[vcpu] = message_id


def _acked(facts: Facts, moment: Moment) -> None:
    _settle(facts, facts.acked, moment)


def _rejected(facts: Facts, moment: Moment) -> None:
    if not moment.record.message_id:
        return
    requeue = bool(moment.record.details.get("requeue", False))
    _settle(facts, facts.requeued if requeue else facts.rejected, moment)


def _settle(facts: Facts, into: dict[DeliveryId, Moment], moment: Moment) -> None:
    delivery = facts.delivery(moment.record)
    if delivery not in facts.mailbox_arrivals and delivery not in facts.arrivals:
        # Settled and never received: a record is missing (completeness.py says so).
        facts.unknown_settles.append(moment)
    into.setdefault(delivery, moment)


def _delivered(facts: Facts, moment: Moment) -> None:
    record = moment.record
    generation = shapes.number(record, "generation")
    message_id = record.message_id or record.caused_by or f"request/{generation}"
    kind = shapes.text(record, "kind")
    facts.types.setdefault(message_id, TYPE_OF_KIND.get(kind, kind))
    delivery = (message_id, record.vcpu)
    facts.delivered.setdefault(delivery, []).append(shapes.text(record, "outcome"))
    facts.mailbox_arrivals.setdefault(delivery, moment)


def _duplicated(facts: Facts, moment: Moment) -> None:
    record = moment.record
    facts.duplicated.add((record.message_id or record.caused_by or "", record.vcpu))


def _posted(facts: Facts, moment: Moment) -> None:
    message_id = moment.record.message_id
    if message_id is not None:
        first = facts.post_of.setdefault(message_id, moment)
        if first is not moment:
            same = first.record.details == moment.record.details
            (facts.posted_again if same else facts.ambiguous).append(message_id)
            return
        kind = shapes.text(moment.record, "kind")
        facts.types.setdefault(message_id, TYPE_OF_KIND.get(kind, kind))
    facts.posts.append(moment)


def _letter(facts: Facts, moment: Moment) -> None:
    facts.letters.append(moment)


def _republished(facts: Facts, moment: Moment) -> None:
    facts.republished.add(moment.record.message_id or "")


def _visible(facts: Facts, moment: Moment) -> None:
    vcpu = moment.record.vcpu
    assert vcpu is not None
    if vcpu in facts.erased:
        facts.shown_again.append(moment)
    facts.visible.setdefault(vcpu, moment)


def _hidden(facts: Facts, moment: Moment) -> None:
    facts.hidden.setdefault(moment.record.vcpu or 0, moment)


def _erased(facts: Facts, moment: Moment) -> None:
    facts.erased.setdefault(moment.record.vcpu or 0, moment)


def _created(facts: Facts, moment: Moment) -> None:
    facts.created.setdefault(moment.record.vcpu or 0, moment)


def _freed(facts: Facts, moment: Moment) -> None:
    vcpu = moment.record.vcpu
    assert vcpu is not None
    command = facts.command_of(moment.record, vcpu)
    facts.freed.setdefault(vcpu, []).append(Freeing(moment, command))


def _step_started(facts: Facts, moment: Moment) -> None:
    record = moment.record
    facts.steps.setdefault(moment.actor, []).append(moment)
    name = shapes.text(record, "name")
    if name in WORKER_STEPS and record.vcpu is not None:
        command = facts.command_of(record, record.vcpu)
        facts.worker_steps.append(StepBegun(moment, record.vcpu, name, command))


def _fault_done(facts: Facts, moment: Moment) -> None:
    facts.faults_done.add((moment.record.vcpu, shapes.number(moment.record, "fault")))


def _state_freed(facts: Facts, moment: Moment) -> None:
    first = facts.state_freed.setdefault(shapes.text(moment.record, "state"), moment)
    if first is not moment:
        facts.state_freed_again.append(moment)


def _background_stopped(facts: Facts, moment: Moment) -> None:
    facts.background_stopped = facts.background_stopped or moment


def _state_read(facts: Facts, moment: Moment) -> None:
    facts.state_reads.append(moment)


def _root(facts: Facts, moment: Moment) -> None:
    facts.roots.append(moment)


def _page_freed(facts: Facts, moment: Moment) -> None:
    facts.pages_freed.append(moment)


def _guest_entered(facts: Facts, moment: Moment) -> None:
    facts.guest_entered.setdefault(moment.record.vcpu or 0, moment)


def _guest_left(facts: Facts, moment: Moment) -> None:
    facts.guest_left.setdefault(moment.record.vcpu or 0, moment)


def _tlb_flushed(facts: Facts, moment: Moment) -> None:
    facts.tlb_flushed.setdefault(moment.record.vcpu or 0, moment)


def _vm_created(facts: Facts, moment: Moment) -> None:
    facts.created_vm.append(moment)


def _teardown_started(facts: Facts, moment: Moment) -> None:
    facts.teardown_started = facts.teardown_started or moment


def _teardown_stuck(facts: Facts, moment: Moment) -> None:
    facts.stuck.append(moment)


def _flush_waited(facts: Facts, moment: Moment) -> None:
    facts.flush_waits.append(moment)


def _vm_removed(facts: Facts, moment: Moment) -> None:
    facts.vm_removed = facts.vm_removed or moment


def _vm_freed(facts: Facts, moment: Moment) -> None:
    facts.vm_freed = facts.vm_freed or moment


def _run_started(facts: Facts, moment: Moment) -> None:
    facts.run_started = moment.record


def _run_finished(facts: Facts, moment: Moment) -> None:
    facts.run_finished = moment.record


_HANDLERS: Final[dict[Event, Callable[[Facts, Moment], None]]] = {
    Event.MESSAGE_SENT: _sent,
    Event.MESSAGE_RECEIVED: _received,
    Event.MESSAGE_ACKED: _acked,
    Event.MESSAGE_REJECTED: _rejected,
    Event.REQUEST_DELIVERED: _delivered,
    Event.REQUEST_DUPLICATED: _duplicated,
    Event.REQUEST_POSTED: _posted,
    Event.DEAD_LETTER_CLASSIFIED: _letter,
    Event.DEAD_LETTER_REPUBLISHED: _republished,
    Event.VCPU_VISIBLE: _visible,
    Event.VCPU_HIDDEN: _hidden,
    Event.VCPU_ERASED: _erased,
    Event.VCPU_CREATED: _created,
    Event.VCPU_FREED: _freed,
    Event.STEP_STARTED: _step_started,
    Event.ASYNC_PF_COMPLETED: _fault_done,
    Event.VM_STATE_FREED: _state_freed,
    Event.BACKGROUND_STOPPED: _background_stopped,
    Event.VM_STATE_READ: _state_read,
    Event.ROOT_ALLOCATED: _root,
    Event.ROOT_PINNED: _root,
    Event.ROOT_UNPINNED: _root,
    Event.ROOT_INVALIDATED: _root,
    Event.ROOT_FREED: _root,
    Event.PAGE_FREED: _page_freed,
    Event.GUEST_ENTERED: _guest_entered,
    Event.GUEST_LEFT: _guest_left,
    Event.TLB_FLUSHED: _tlb_flushed,
    Event.VM_CREATED: _vm_created,
    Event.TEARDOWN_STARTED: _teardown_started,
    Event.TEARDOWN_STUCK: _teardown_stuck,
    Event.FLUSH_WAITED: _flush_waited,
    Event.VM_FREED: _vm_freed,
    Event.VM_REMOVED: _vm_removed,
    Event.RUN_STARTED: _run_started,
    Event.RUN_FINISHED: _run_finished,
}


def gather(history: History, vm: str | None = None) -> Facts:
    """Return the facts about one VM; causality is that of the whole history.

    Raises:
        HistoryError: The VM is not in the history, or is not named and not the only one.
    """
    facts = Facts(history.the_vm(vm), history, order(history.records))
    for moment in facts.timeline.moments:
        record = moment.record
        # The order was made from all records, as the same services also serve other VMs.
        if record.vm != facts.vm and not (record.vm is None and record.event in _RUN_EVENTS):
            continue
        facts.moments.append(moment)
        handler = _HANDLERS.get(record.event)
        if handler is not None:
            handler(facts, moment)
    return facts

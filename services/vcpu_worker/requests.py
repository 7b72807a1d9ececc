"""Taking a request from a mailbox: a live vCPU, the tombstone, the guest; pure.

The tombstone's rule stands here: a request that a freed vCPU has not seen before is a
use-after-free and is rejected; one that it has seen is a duplicate and is acknowledged.
"""

from dataclasses import replace

from vcpu_worker import commands
from vcpu_worker.steps import Stepped, WorkerQueues
from vcpu_worker.vcpu import Vcpu
from vm_protocol import messages, topology
from vm_protocol.effects import Ack, Effect, Publish, Received, Reject, observed
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event


def take(vcpu: Vcpu, event: Received, request: messages.Request, queues: WorkerQueues) -> Stepped:
    """Post a request to a vCPU, or reject it if the vCPU is freed (kvm_make_vcpu_request)."""
    mailbox, generation = vcpu.mailbox, request.generation
    kind = messages.REQUEST_KINDS[request.type]
    # To the manager as well as to the broker; a repeated request is acknowledged again.
    settled = (*_acked(vcpu, event, request), Ack(event.queue, event.message_id))
    if vcpu.has_consumed(generation):
        duplicated = observed(
            Event.REQUEST_DUPLICATED,
            mailbox.vm,
            mailbox.vcpu,
            kind=kind,
            generation=generation,
        )
        return Stepped(vcpu, (duplicated, *settled))
    outcome = "rejected" if vcpu.freed else "posted"
    delivered = observed(
        Event.REQUEST_DELIVERED,
        mailbox.vm,
        mailbox.vcpu,
        kind=kind,
        generation=generation,
        outcome=outcome,
    )
    if vcpu.freed:
        return _refuse(vcpu, event, request, delivered)
    posted, left = _leave_guest(vcpu.consume(generation), request)
    stepped = commands.after_consuming(posted, queues)
    return Stepped(stepped.vcpu, (delivered, *left, *settled, *stepped.effects))


def _refuse(vcpu: Vcpu, event: Received, request: messages.Request, delivered: Effect) -> Stepped:
    """Refuse a request to a freed vCPU: the write is the bug, and is not made good.

    The IPI finds the processor all the same, which leaves the guest if it still runs it, and
    acknowledges; an answer of the vCPU itself (`flush_wait: all`) never comes.
    """
    after, left = _leave_guest(vcpu, request)
    is_ipi = getattr(request, "flush_wait", "in_guest") == "in_guest"
    acked = _acked(vcpu, event, request) if is_ipi else ()
    reject = Reject(event.queue, event.message_id, RejectReason.FREED)
    return Stepped(after, (delivered, *left, *acked, reject))


def _leave_guest(vcpu: Vcpu, request: messages.Request) -> tuple[Vcpu, tuple[Effect, ...]]:
    """Leave the guest at the first request, for good; a flush drops the TLB's translations."""
    mailbox = vcpu.mailbox
    effects: tuple[Effect, ...] = ()
    if vcpu.tlb and isinstance(request, messages.TlbFlush):
        effects = (observed(Event.TLB_FLUSHED, mailbox.vm, mailbox.vcpu, pages=vcpu.tlb),)
        vcpu = replace(vcpu, tlb=())
    if vcpu.in_guest:
        effects = (*effects, observed(Event.GUEST_LEFT, mailbox.vm, mailbox.vcpu))
        vcpu = replace(vcpu, in_guest=False)
    return vcpu, effects


def _acked(vcpu: Vcpu, event: Received, request: messages.Request) -> tuple[Effect, ...]:
    """Return the acknowledgement of a request that the manager waits for."""
    waited_for = getattr(request, "wait_for", ())
    if event.reply_to is None or vcpu.mailbox.vcpu not in waited_for:
        return ()
    acked = messages.RequestAcked(
        vm=request.vm,
        incarnation=request.incarnation,
        vcpu=vcpu.mailbox.vcpu,
        generation=request.generation,
    )
    publish = Publish(
        topology.REPLIES.name,
        event.reply_to,
        acked,
        mandatory=True,
        correlation_id=event.message_id,
    )
    return (publish,)

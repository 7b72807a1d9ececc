"""Running a DestroyVcpu: steps in a row, waits in between, one answer at the end; pure."""

from dataclasses import replace
from functools import partial

from vcpu_worker.steps import STEPS, Queues, Step, Stepped, fence_timer, to_manager
from vcpu_worker.vcpu import Running, Vcpu
from vcpu_worker.waits import End, Then, Wait
from vm_protocol import messages
from vm_protocol.effects import Ack, CancelTimer, Effect, Reject, observed
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event

OUTCOMES: dict[RejectReason, str] = {
    RejectReason.FREED: "refused",
    RejectReason.DOUBLE_FREE: "refused",
    RejectReason.FENCE_NOT_REACHED: "stuck",
}


def answer(running: Running, outcome: str) -> Effect:
    """Return the publish of a command's answer."""
    command = running.command
    message = messages.VcpuStepsDone.model_validate(
        {
            "vm": command.vm,
            "incarnation": command.incarnation,
            "vcpu": command.vcpu,
            "step": command.step,
            "outcome": outcome,
        }
    )
    return to_manager(running, message)


def begin(vcpu: Vcpu, running: Running, queues: Queues) -> Stepped:
    """Start a command at its first step."""
    return _run(replace(vcpu, running=running), queues, resumed=False)


def end_wait(vcpu: Vcpu, end: End, queues: Queues) -> Stepped:
    """Do what the table says of this end; nothing when no command waits for it."""
    then = vcpu.running.then(end) if vcpu.running is not None else None
    return Stepped(vcpu) if then is None else go_on(vcpu, then, queues)


def go_on(vcpu: Vcpu, then: Then, queues: Queues) -> Stepped:
    """Do one entry of the table with the command that waited."""
    assert vcpu.running is not None, "only a running command goes on"
    return ACTIONS[then](vcpu, vcpu.running, queues)


def after_consuming(vcpu: Vcpu, queues: Queues) -> Stepped:
    """Go on with a free whose fence is reached now."""
    running = vcpu.running
    if running is None or running.then(End.FENCE_REACHED) is None:
        return Stepped(vcpu)
    if vcpu.consumed < max(running.command.generation, running.fence):
        return Stepped(vcpu)
    stepped = end_wait(vcpu, End.FENCE_REACHED, queues)
    return Stepped(stepped.vcpu, (CancelTimer(fence_timer(vcpu)), *stepped.effects))


# --- what is done when a wait ends ---------------------------------------------------------------


def _same_step(vcpu: Vcpu, running: Running, queues: Queues) -> Stepped:
    return _run(replace(vcpu, running=replace(running, waiting=None)), queues, resumed=True)


def _next_step(vcpu: Vcpu, running: Running, queues: Queues) -> Stepped:
    finished = _step_event(Event.STEP_FINISHED, vcpu, running)
    stepped = _run(replace(vcpu, running=_next(running)), queues, resumed=False)
    return Stepped(stepped.vcpu, (finished, *stepped.effects))


def _requeue(vcpu: Vcpu, running: Running, queues: Queues) -> Stepped:
    """`basic.nack` would not count towards the delivery limit (RabbitMQ 4.3)."""
    waiting = replace(running, waiting=Wait.REDELIVERY, attempt=running.attempt + 1)
    reject = Reject(queues.commands, running.message_id, RejectReason.ROOTS_PINNED, requeue=True)
    return Stepped(replace(vcpu, running=waiting), (reject,))


def _fail(vcpu: Vcpu, running: Running, queues: Queues, reason: RejectReason) -> Stepped:
    """End the command by a reject; the manager is told first, and goes on or stops."""
    outcome = OUTCOMES[reason]
    effects = (answer(running, outcome), Reject(queues.commands, running.message_id, reason))
    return Stepped(vcpu.finish(outcome), effects)


def _reject(vcpu: Vcpu, running: Running, queues: Queues) -> Stepped:
    return Stepped(vcpu, (Reject(queues.commands, running.message_id, RejectReason.NOT_OWNED),))


def _nothing(vcpu: Vcpu, _running: Running, _queues: Queues) -> Stepped:
    return Stepped(vcpu)


ACTIONS: dict[Then, Step] = {
    Then.NEXT_STEP: _next_step,
    Then.SAME_STEP: _same_step,
    Then.REQUEUE: _requeue,
    Then.GIVE_UP: partial(_fail, reason=RejectReason.FENCE_NOT_REACHED),
    Then.REJECT: _reject,
    Then.NOTHING: _nothing,
}


# --- steps in a row ------------------------------------------------------------------------------


def _next(running: Running) -> Running:
    return replace(running, position=running.position + 1, waiting=None, attempt=1)


def _step_event(event: Event, vcpu: Vcpu, running: Running) -> Effect:
    mailbox = vcpu.mailbox
    return observed(event, mailbox.vm, mailbox.vcpu, running.command.step, name=running.step_name)


def _run(vcpu: Vcpu, queues: Queues, *, resumed: bool) -> Stepped:
    """Run steps until the command ends or waits."""
    effects: list[Effect] = []
    while vcpu.running is not None:
        running = vcpu.running
        if running.position == len(running.command.steps):
            effects += [answer(running, "done"), Ack(queues.commands, running.message_id)]
            vcpu = vcpu.finish("done")
            break
        if vcpu.freed:
            second_free = running.step_name == "free_vcpu"
            reason = RejectReason.DOUBLE_FREE if second_free else RejectReason.FREED
            failed = _fail(vcpu, running, queues, reason)
            return Stepped(failed.vcpu, (*effects, *failed.effects))
        if not resumed:
            effects.append(_step_event(Event.STEP_STARTED, vcpu, running))
        resumed = False
        stepped = STEPS[running.step_name](vcpu, running, queues)
        vcpu = stepped.vcpu
        effects += stepped.effects
        if vcpu.running is not None and vcpu.running.waiting is not None:
            break
        effects.append(_step_event(Event.STEP_FINISHED, vcpu, running))
        vcpu = replace(vcpu, running=_next(running))
    return Stepped(vcpu, tuple(effects))

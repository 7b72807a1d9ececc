"""Running a DestroyVcpu: steps in a row, waits in between, one answer at the end; pure."""

from dataclasses import replace

from vcpu_worker.steps import STEPS, Queues, Stepped, fence_timer, to_manager
from vcpu_worker.vcpu import Running, Vcpu
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


def resume(vcpu: Vcpu, queues: Queues) -> Stepped:
    """Go on with the step that the command stands at: it was waiting, and may go on now."""
    assert vcpu.running is not None, "only a running command resumes"
    going = replace(vcpu, running=replace(vcpu.running, waiting=None))
    return _run(going, queues, resumed=True)


def complete_step(vcpu: Vcpu, queues: Queues) -> Stepped:
    """Finish the step that waited for an answer, and go on with the next."""
    assert vcpu.running is not None, "only a running command goes on"
    finished = _step_event(Event.STEP_FINISHED, vcpu, vcpu.running)
    going = replace(vcpu, running=_next(vcpu.running))
    stepped = _run(going, queues, resumed=False)
    return Stepped(stepped.vcpu, (finished, *stepped.effects))


def fail(vcpu: Vcpu, queues: Queues, reason: RejectReason) -> Stepped:
    """End the command by a reject; the manager is told first, and goes on or stops."""
    assert vcpu.running is not None, "only a running command fails"
    running, outcome = vcpu.running, OUTCOMES[reason]
    effects = (answer(running, outcome), Reject(queues.commands, running.message_id, reason))
    return Stepped(vcpu.finish(outcome), effects)


def retry_later(vcpu: Vcpu, queues: Queues) -> Stepped:
    """Requeue the command: roots are left. `basic.nack` would not count towards the limit (4.3)."""
    assert vcpu.running is not None, "only a running command is retried"
    running = replace(vcpu.running, waiting="requeued", attempt=vcpu.running.attempt + 1)
    reject = Reject(queues.commands, running.message_id, RejectReason.ROOTS_PINNED, requeue=True)
    return Stepped(replace(vcpu, running=running), (reject,))


def after_consuming(before: Vcpu, vcpu: Vcpu, queues: Queues) -> Stepped:
    """Go on with a free whose fence is reached now."""
    running = vcpu.running
    if running is None or running.waiting != "fence" or vcpu.consumed == before.consumed:
        return Stepped(vcpu)
    if vcpu.consumed < max(running.command.generation, running.fence):
        return Stepped(vcpu)
    stepped = resume(vcpu, queues)
    return Stepped(stepped.vcpu, (CancelTimer(fence_timer(vcpu)), *stepped.effects))


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
            failed = fail(vcpu, queues, reason)
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

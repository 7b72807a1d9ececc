"""Running a DestroyVcpu: steps in a row, waits in between, one answer at the end; pure.

How a command runs:

- *Steps.* A command names neighbouring steps of one vCPU. `_run` takes them in order, within the
  handling of one input, and says `step.started` and `step.finished` around each. A vCPU runs one
  command at a time; which step it stands at is kept in `Running`, beside the vCPU.
- *Waits.* A step that needs something from outside leaves `Running.waiting` set, and `_run` stops
  there. Nothing is blocked: the worker goes on with its other inputs. What may end a wait is
  looked up in the table (`waits`), and `ACTIONS` holds what each entry does. An answer must also
  name the step, position and attempt that the command stands at.
- *Fence.* A free must not happen while requests to the vCPU are still on their way in its mailbox.
  The command says which generation was the newest when it was sent; the answer to an unload in the
  same command may name a newer one, that of the unload's own flush. The free waits for the larger
  of both, and each request that is consumed looks whether that is enough (`after_consuming`). If
  its timer fires first, the command ends as stuck.
- *Redelivery.* The broker delivers again whatever is not settled. While a command waits, its next
  copy does nothing; one settling settles both. Once it has finished, a copy is answered again with
  the outcome that is kept in `Vcpu.finished`, and runs no step. Only the 2007 loop asks for its own
  next delivery: with roots left it requeues the command and zaps anew when that comes back, as
  often as the broker's delivery limit allows.
- *Answer.* A command ends with one VcpuStepsDone: done, refused (a tombstone was given a step) or
  stuck. The answer is published before the command is settled, so that a connection lost in between
  brings the command again, and never loses the answer. A command whose vCPU goes away with its
  mailbox is rejected without an answer.
"""

from dataclasses import replace
from functools import partial

from vcpu_worker.steps import STEPS, StepFunction, Stepped, WorkerQueues, to_manager
from vcpu_worker.vcpu import Running, Vcpu
from vcpu_worker.waits import End, Then, Wait
from vm_protocol import messages
from vm_protocol.effects import Ack, CancelTimer, Effect, Reject, observed
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event
from vm_protocol.timers import TimerKind

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


def begin(vcpu: Vcpu, running: Running, queues: WorkerQueues) -> Stepped:
    """Start a command at its first step."""
    return _run(replace(vcpu, running=running), queues, resumed=False)


def end_wait(vcpu: Vcpu, end: End, queues: WorkerQueues) -> Stepped:
    """Do what the table says of this end; nothing when no command waits for it."""
    then = vcpu.running.then(end) if vcpu.running is not None else None
    return Stepped(vcpu) if then is None else go_on(vcpu, then, queues)


def go_on(vcpu: Vcpu, then: Then, queues: WorkerQueues) -> Stepped:
    """Do one entry of the table with the command that waited."""
    assert vcpu.running is not None, "only a running command goes on"
    return ACTIONS[then](vcpu, vcpu.running, queues)


def after_consuming(vcpu: Vcpu, queues: WorkerQueues) -> Stepped:
    """Go on with a free whose fence is reached now."""
    running = vcpu.running
    # Only a free that waits has a timer to cancel.
    if running is None or running.then(End.FENCE_REACHED) is None:
        return Stepped(vcpu)
    if vcpu.consumed < running.awaited:
        return Stepped(vcpu)
    stepped = end_wait(vcpu, End.FENCE_REACHED, queues)
    over = CancelTimer(TimerKind.FENCE.of(vcpu.mailbox.name))
    return Stepped(stepped.vcpu, (over, *stepped.effects))


# --- what is done when a wait ends ---------------------------------------------------------------


def _same_step(vcpu: Vcpu, running: Running, queues: WorkerQueues) -> Stepped:
    return _run(replace(vcpu, running=replace(running, waiting=None)), queues, resumed=True)


def _next_step(vcpu: Vcpu, running: Running, queues: WorkerQueues) -> Stepped:
    finished = _step_event(Event.STEP_FINISHED, vcpu, running)
    stepped = _run(replace(vcpu, running=_next(running)), queues, resumed=False)
    return Stepped(stepped.vcpu, (finished, *stepped.effects))


def _requeue(vcpu: Vcpu, running: Running, queues: WorkerQueues) -> Stepped:
    """Give the command back by a reject, which counts; a nack does not (RabbitMQ 4.3)."""
    # The next zap has a number of its own, so that a late answer to this one does not end it.
    waiting = replace(running, waiting=Wait.REDELIVERY, attempt=running.attempt + 1)
    reject = Reject(queues.commands, running.message_id, RejectReason.ROOTS_PINNED, requeue=True)
    return Stepped(replace(vcpu, running=waiting), (reject,))


def _fail(vcpu: Vcpu, running: Running, queues: WorkerQueues, reason: RejectReason) -> Stepped:
    """End the command by a reject; the manager is told first, and goes on or stops."""
    outcome = OUTCOMES[reason]
    effects = (answer(running, outcome), Reject(queues.commands, running.message_id, reason))
    return Stepped(vcpu.finish(outcome), effects)


def _reject(vcpu: Vcpu, running: Running, queues: WorkerQueues) -> Stepped:
    return Stepped(vcpu, (Reject(queues.commands, running.message_id, RejectReason.NOT_OWNED),))


def _nothing(vcpu: Vcpu, _running: Running, _queues: WorkerQueues) -> Stepped:
    return Stepped(vcpu)


ACTIONS: dict[Then, StepFunction] = {
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


def _run(vcpu: Vcpu, queues: WorkerQueues, *, resumed: bool) -> Stepped:
    """Run steps until the command ends or waits."""
    effects: list[Effect] = []
    while vcpu.running is not None:
        running = vcpu.running
        if running.position == len(running.command.steps):
            effects += [answer(running, "done"), Ack(queues.commands, running.message_id)]
            vcpu = vcpu.finish("done")
            break
        # Also met by a command that has freed the vCPU itself and names further steps.
        if vcpu.freed:
            second_free = running.step_name == "free_vcpu"
            reason = RejectReason.DOUBLE_FREE if second_free else RejectReason.FREED
            failed = _fail(vcpu, running, queues, reason)
            return Stepped(failed.vcpu, (*effects, *failed.effects))
        if not resumed:  # the step that waited was said to have started when it first ran
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

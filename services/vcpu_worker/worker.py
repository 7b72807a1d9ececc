"""VcpuWorker: the pure core of a worker. Takes inputs apart and hands them to the vCPU's rules.

A command that meets a freed vCPU is rejected as a use-after-free, unless it had finished before:
then it is answered again. How requests are taken stands in `requests`.
"""

from dataclasses import dataclass, field, replace
from typing import assert_never

from immutables import Map

from vcpu_worker import commands, lease, requests
from vcpu_worker.steps import Stepped, WorkerQueues
from vcpu_worker.vcpu import Running, Vcpu, place
from vcpu_worker.waits import End, Then
from vm_protocol import limits, messages, topology
from vm_protocol.effects import (
    Ack,
    Consume,
    ConsumeMailbox,
    DeadLettered,
    Effect,
    Input,
    JournalRead,
    Leaving,
    MailboxGone,
    Publish,
    Received,
    Reject,
    Returned,
    Started,
    StopConsuming,
    TimerFired,
    TookOver,
    observed,
)
from vm_protocol.errors import LocalProtocolError, RejectReason
from vm_protocol.observations import Event
from vm_protocol.timers import TimerKind, parse_timer
from vm_protocol.topology import Mailbox, parse_mailbox
from vm_protocol.trust import worker_actor

Vcpus = Map[Mailbox, Vcpu]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The vCPUs that a worker owns, tombstones included; `live` counts those that are not freed.

    `ended` are the managers' epochs that are known to be over, each with the last entry of its log.
    `alive` is how often it has said that it lives. One that is `leaving` takes no further vCPU.
    """

    vcpus: Vcpus = field(default_factory=Map)
    live: int = 0
    ended: Map[int, int] = field(default_factory=Map)
    alive: int = 0
    leaving: bool = False

    def is_at_rest(self) -> bool:
        """Tell whether nobody needs this worker any more: what it has is freed."""
        return self.live == 0

    def with_vcpu(self, vcpu: Vcpu) -> "WorkerState":
        """Return the state with a vCPU added or replaced."""
        live = self.live - self._lives(vcpu.mailbox) + (not vcpu.freed)
        return replace(self, vcpus=self.vcpus.set(vcpu.mailbox, vcpu), live=live)

    def without(self, mailbox: Mailbox) -> "WorkerState":
        """Return the state with a vCPU forgotten."""
        live = self.live - self._lives(mailbox)
        return replace(self, vcpus=self.vcpus.delete(mailbox), live=live)

    def is_stale(self, event: Received) -> bool:
        """Tell whether a message comes from a manager that had lost its office.

        What an earlier manager sent from an entry before its end is as good as ever.
        """
        return event.epoch in self.ended and event.entry > self.ended[event.epoch]

    def learn(self, event: Received) -> "WorkerState":
        """Return the state that knows which epochs are over."""
        if all(self.ended.get(epoch) == last for epoch, last in event.ended):
            return self
        return replace(self, ended=self.ended.update(event.ended))

    def _lives(self, mailbox: Mailbox) -> bool:
        vcpu = self.vcpus.get(mailbox)
        return vcpu is not None and not vcpu.freed


WorkerResult = tuple[WorkerState, tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class VcpuWorker:
    """A worker's core: `name` forms its queues, `capacity` bounds its live vCPUs."""

    name: str
    capacity: int

    @property
    def actor(self) -> str:
        """Return the actor's name in the history."""
        return worker_actor(self.name)

    @property
    def commands_queue(self) -> str:
        """Return the name of the queue that this worker's commands arrive on."""
        return topology.worker_commands(self.name).name

    @property
    def queues(self) -> WorkerQueues:
        """Return the names of this worker's queues."""
        return WorkerQueues(self.commands_queue, topology.worker_replies(self.name).name)

    def initial(self) -> WorkerState:
        """Return the state of a worker that owns nothing."""
        return WorkerState()

    def step(self, state: WorkerState, event: Input) -> WorkerResult:
        """Return the state after an input, and its effects (vm_protocol.effects.Core)."""
        result = self._step(state, event)
        return self._watch_lease(state, self._watch_capacity(state, result))

    def _step(self, state: WorkerState, event: Input) -> WorkerResult:
        match event:
            case Started():
                return state, self._consumption()
            case Leaving():
                return self._leave(state)
            case Received():
                return self._received(state, event)
            case TimerFired():
                return self._timer(state, event.name)
            case MailboxGone():
                return self._forget(state, event.mailbox)
            case Returned(message=messages.VcpuPlaced() as placed):
                return self._give_back(state, placed), ()
            case Returned() | DeadLettered() | JournalRead() | TookOver():
                # Who should have got it is gone; the others never come to a worker.
                return state, ()
            case _:
                assert_never(event)

    def _consumption(self) -> tuple[Effect, ...]:
        return (
            # A command is settled only as it ends: each vCPU may hold one delivery that long.
            Consume(topology.worker_commands(self.name), self.capacity),
            Consume(topology.worker_replies(self.name), limits.REPLIES_PREFETCH),
            Consume(topology.PLACEMENT_QUEUE, 1),
        )

    def _watch_capacity(self, before: WorkerState, result: WorkerResult) -> WorkerResult:
        """Stop taking placements when full, and take them again when not.

        The cancel goes out before the ack of the last placement; with a prefetch of one, the
        broker sends no further one in between.
        """
        after, effects = result
        was_full, is_full = before.live >= self.capacity, after.live >= self.capacity
        if after.leaving:
            return result
        if is_full and not was_full:
            return after, (StopConsuming(topology.PLACEMENT_QUEUE.name), *effects)
        if was_full and not is_full:
            return after, (*effects, Consume(topology.PLACEMENT_QUEUE, 1))
        return result

    def _leave(self, state: WorkerState) -> WorkerResult:
        """Take no further vCPU, and say so to the managers of those that are here."""
        if state.leaving:
            return state, ()
        is_full = state.live >= self.capacity
        stopped = () if is_full else (StopConsuming(topology.PLACEMENT_QUEUE.name),)
        return replace(state, leaving=True), (*stopped, *lease.leaving(self.name, state.vcpus))

    def _watch_lease(self, before: WorkerState, result: WorkerResult) -> WorkerResult:
        """Begin to say that this worker lives with its first vCPU, and end with its last."""
        after, effects = result
        if bool(before.vcpus) == bool(after.vcpus):
            return result
        change = lease.begun if after.vcpus else lease.ended
        return after, (*effects, *change(self.name))

    def _received(self, state: WorkerState, event: Received) -> WorkerResult:
        message = event.message
        # A worker sends itself its completions, and a worker's epoch is 0.
        from_manager = not isinstance(message, messages.AsyncPfCompleted)
        if from_manager and (event.epoch < limits.MANAGER_EPOCH or state.is_stale(event)):
            return self._refuse_stale(state, event)
        if from_manager:
            state = state.learn(event)
        mailbox = parse_mailbox(event.queue)
        if mailbox is not None:
            return self._request(state, event, mailbox)
        answerable = event.reply_to == topology.MANAGER_REPLIES_QUEUE.name
        match message, event.queue:
            case messages.PlaceVcpu(), topology.PLACEMENT_QUEUE.name if answerable:
                return self._place(state, event, message)
            case messages.DestroyVcpu(), self.commands_queue if answerable:
                return self._destroy(state, event, message)
            case messages.AsyncPfCompleted(), self.commands_queue:
                return self._complete_fault(state, event, message)
            case messages.PlacementAnswered(), self.queues.replies:
                return self._placement_answered(state, event, message)
            case messages.UnloadDone() | messages.ZapDone(), self.queues.replies:
                return self._answered(state, event, message)
            case _:
                return self._reject(state, event, RejectReason.UNEXPECTED)

    def _refuse_stale(self, state: WorkerState, event: Received) -> WorkerResult:
        message = event.message
        vcpu_id = getattr(message, "vcpu", -1)
        vcpu = state.vcpus.get(Mailbox(message.vm, vcpu_id, message.incarnation))
        running = vcpu.running if vcpu is not None else None
        # A Reject would settle the delivery of the same command that is being worked on, too.
        if running is not None and running.message_id == event.message_id:
            return state, ()
        return self._reject(state, event, RejectReason.STALE_EPOCH)

    def _reject(self, state: WorkerState, event: Received, reason: RejectReason) -> WorkerResult:
        return state, (Reject(event.queue, event.message_id, reason),)

    # --- placement ---------------------------------------------------------------------

    def _place(
        self, state: WorkerState, event: Received, message: messages.PlaceVcpu
    ) -> WorkerResult:
        vcpu = place(message)
        placed = messages.VcpuPlaced(
            vm=message.vm,
            incarnation=message.incarnation,
            vcpu=message.vcpu,
            worker=self.name,
            places=self.capacity,
        )
        assert event.reply_to is not None, "checked by _received"
        answer = (
            Publish(
                topology.REPLIES.name,
                event.reply_to,
                placed,
                mandatory=True,
                reply_to=self.queues.replies,
                correlation_id=event.message_id,
            ),
            Ack(event.queue, event.message_id),
        )
        if state.leaving:
            # It came before the consumer was cancelled: another worker gets it.
            given_back = Reject(event.queue, event.message_id, RejectReason.NOT_OWNED, requeue=True)
            return state, (given_back,)
        # Offered again, it is answered again; the vCPU may have changed since, and is kept.
        if vcpu.mailbox in state.vcpus:
            return state, answer
        return state.with_vcpu(vcpu), answer

    def _placement_answered(
        self, state: WorkerState, event: Received, answer: messages.PlacementAnswered
    ) -> WorkerResult:
        """Own the vCPU and consume its mailbox, or forget that it was ever placed here."""
        ack = Ack(event.queue, event.message_id)
        vcpu = state.vcpus.get(Mailbox(answer.vm, answer.vcpu, answer.incarnation))
        if vcpu is None or vcpu.accepted or answer.worker != self.name:
            return state, (ack,)
        if not answer.accepted:
            return self._give_back(state, answer), (ack,)
        owned = state.with_vcpu(replace(vcpu, accepted=True))
        said: tuple[Effect, ...] = (observed(Event.VCPU_CREATED, answer.vm, answer.vcpu),)
        if vcpu.in_guest:
            entered = observed(Event.GUEST_ENTERED, answer.vm, answer.vcpu, pages=vcpu.tlb)
            said = (*said, entered)
        return owned, (ConsumeMailbox(vcpu.mailbox), *said, ack)

    def _give_back(
        self, state: WorkerState, placed: messages.VcpuPlaced | messages.PlacementAnswered
    ) -> WorkerState:
        """Forget a vCPU that is not this worker's: the manager says so, or there is none."""
        mailbox = Mailbox(placed.vm, placed.vcpu, placed.incarnation)
        vcpu = state.vcpus.get(mailbox)
        if vcpu is None or vcpu.accepted:
            return state
        return state.without(mailbox)

    def _forget(self, state: WorkerState, mailbox: Mailbox) -> WorkerResult:
        vcpu = state.vcpus.get(mailbox)
        if vcpu is None:
            return state, ()
        forgotten = observed(Event.VCPU_FORGOTTEN, mailbox.vm, mailbox.vcpu, freed=vcpu.freed)
        ended = commands.end_wait(vcpu, End.MAILBOX_GONE, self.queues)
        return state.without(mailbox), (forgotten, *ended.effects)

    # --- commands ----------------------------------------------------------------------

    def _destroy(
        self, state: WorkerState, event: Received, command: messages.DestroyVcpu
    ) -> WorkerResult:
        vcpu = state.vcpus.get(Mailbox(command.vm, command.vcpu, command.incarnation))
        if vcpu is None:
            return self._reject(state, event, RejectReason.NOT_OWNED)
        assert event.reply_to is not None, "checked by _received"
        running = Running(command, event.reply_to)
        outcome = vcpu.outcome_of(event.message_id)
        if outcome is not None:
            again = (commands.answer(running, outcome), Ack(event.queue, event.message_id))
            return state, again
        if vcpu.running is None:
            return self._with(state, commands.begin(vcpu, running, self.queues))
        if vcpu.running.message_id != event.message_id:
            return self._reject(state, event, RejectReason.UNEXPECTED)
        # Waiting for anything else, it is left alone: settled together with the first delivery.
        return self._with(state, commands.end_wait(vcpu, End.REDELIVERED, self.queues))

    def _answered(
        self, state: WorkerState, event: Received, answer: messages.UnloadDone | messages.ZapDone
    ) -> WorkerResult:
        ack = Ack(event.queue, event.message_id)
        vcpu = state.vcpus.get(Mailbox(answer.vm, answer.vcpu, answer.incarnation))
        if vcpu is None or vcpu.running is None:
            return state, (ack,)
        then = _what_then(vcpu.running, answer)
        if then is None:
            return state, (ack,)
        # Only an unload's answer names a generation: a zap until empty posts no request.
        fence = getattr(answer, "generation", 0)
        running = replace(vcpu.running, fence=max(vcpu.running.fence, fence))
        stepped = commands.go_on(replace(vcpu, running=running), then, self.queues)
        after, effects = self._with(state, stepped)
        return after, (*effects, ack)

    def _timer(self, state: WorkerState, name: str) -> WorkerResult:
        timer = parse_timer(name)
        if timer.kind is TimerKind.ALIVE and not state.vcpus:
            return state, ()  # the last one went just before it was due
        if timer.kind is TimerKind.ALIVE:
            said = lease.alive(self.name, state.vcpus, state.alive + 1)
            return replace(state, alive=state.alive + 1), said
        if timer.kind is TimerKind.LAPSE:
            dropped = lease.lapsed(state.vcpus, self.queues)
            return replace(state, vcpus=Map(), live=0), dropped
        mailbox = parse_mailbox(timer.about)
        if timer.kind is not TimerKind.FENCE or mailbox is None:
            raise LocalProtocolError(f"{name}: a worker sets no such timer")
        vcpu = state.vcpus.get(mailbox)
        if vcpu is None:
            return state, ()
        return self._with(state, commands.end_wait(vcpu, End.FENCE_EXPIRED, self.queues))

    def _complete_fault(
        self, state: WorkerState, event: Received, message: messages.AsyncPfCompleted
    ) -> WorkerResult:
        vcpu = state.vcpus.get(Mailbox(message.vm, message.vcpu, message.incarnation))
        if vcpu is None:
            return self._reject(state, event, RejectReason.NOT_OWNED)
        ack = Ack(event.queue, event.message_id)
        if message.fault in vcpu.completed:
            return state, (ack,)  # delivered again: it wrote while the vCPU lived
        if vcpu.freed:
            return self._reject(state, event, RejectReason.FREED)
        late = observed(
            Event.ASYNC_PF_COMPLETED, message.vm, message.vcpu, fault=message.fault, how="late"
        )
        pending = tuple(fault for fault in vcpu.faults if fault != message.fault)
        after = replace(vcpu, faults=pending, completed=vcpu.completed | {message.fault})
        return self._with(state, Stepped(after, (late, ack)))

    # --- requests ----------------------------------------------------------------------

    def _request(self, state: WorkerState, event: Received, mailbox: Mailbox) -> WorkerResult:
        message = event.message
        if not isinstance(message, messages.REQUEST_TYPES):
            return self._reject(state, event, RejectReason.UNEXPECTED)
        vcpu = state.vcpus.get(mailbox)
        if vcpu is None or (message.vm, message.incarnation) != (mailbox.vm, mailbox.incarnation):
            return self._reject(state, event, RejectReason.NOT_OWNED)
        return self._with(state, requests.take(vcpu, event, message, self.queues))

    def _with(self, state: WorkerState, stepped: Stepped) -> WorkerResult:
        return state.with_vcpu(stepped.vcpu), stepped.effects


def _what_then(running: Running, answer: messages.UnloadDone | messages.ZapDone) -> Then | None:
    """Return what is done after this answer, or None: it is to something earlier."""
    if isinstance(answer, messages.UnloadDone):
        end = End.UNLOADED
    else:
        end = End.ROOTS_LEFT if answer.roots_left else End.ZAPPED
    place = (running.command.step, running.position) == (answer.step, answer.position)
    attempt = getattr(answer, "attempt", running.attempt)
    return running.then(end) if place and attempt == running.attempt else None

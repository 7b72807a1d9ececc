"""VmManager: the pure core of the manager. Takes inputs apart and hands them to the VM's rules."""

from dataclasses import asdict, dataclass, replace
from typing import assert_never

from vm_manager import (
    admission,
    creation,
    flush_waits,
    interpreter,
    lost_hosts,
    removal,
    requests,
    unloading,
)
from vm_manager.state import ManagerResult, ManagerState
from vm_manager.vm import Teardown, Vm
from vm_manager.waiting_room import find, why_full
from vm_protocol import limits, messages, topology
from vm_protocol.effects import (
    Ack,
    Consume,
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
    SetTimer,
    Started,
    TimerFired,
    TookOver,
    observed,
)
from vm_protocol.errors import LocalProtocolError, RejectReason
from vm_protocol.observations import Event
from vm_protocol.timers import TimerKind, parse_timer
from vm_protocol.trust import manager_actor, worker_of
from vm_protocol.work import too_much


@dataclass(frozen=True, slots=True)
class VmManager:
    """The manager's core of one epoch."""

    epoch: int = limits.MANAGER_EPOCH

    @property
    def actor(self) -> str:
        """Return the actor's name in the history."""
        return manager_actor(self.epoch)

    def initial(self) -> ManagerState:
        """Return the state of a manager without VMs."""
        return ManagerState()

    def step(self, state: ManagerState, event: Input) -> ManagerResult:
        """Return the state after an input, and its effects (vm_protocol.effects.Core)."""
        # Any input may have ended the creation that takes places; then the next one begins.
        return _rest(admission.go_on(self._step(state, event)))

    def _step(self, state: ManagerState, event: Input) -> ManagerResult:
        match event:
            case Started():
                return state, self._consumption()
            case TookOver():
                return state, _took_over(state, event)
            case Received(queue=topology.MANAGER_REPLIES_QUEUE.name):
                return self._reply(state, event)
            case Received(queue=topology.MANAGER_COMMANDS_QUEUE.name) if event.reply_to:
                return self._command(state, event, event.reply_to)
            case Received():
                return self._reject(state, event, RejectReason.UNEXPECTED)
            case TimerFired():
                return self._timer(state, event.name)
            case Returned(message=messages.DestroyVcpu() as command):
                return self._stuck(state, command, "the worker's command queue is gone")
            case Returned(message=messages.VmCreated() as created):
                return self._client_gone(state, created)
            case Leaving() | Returned() | MailboxGone() | DeadLettered() | JournalRead():
                # It ends as it stands; a receiver is gone; the others never come here.
                return state, ()
            case _:
                assert_never(event)

    def _consumption(self) -> tuple[Effect, ...]:
        """Consume commands and replies: a manager starts when it is elected, and not before."""
        return (
            Consume(topology.MANAGER_COMMANDS_QUEUE, limits.MANAGER_PREFETCH),
            Consume(topology.MANAGER_REPLIES_QUEUE, limits.REPLIES_PREFETCH),
        )

    # --- commands of clients -----------------------------------------------------------

    def _command(self, state: ManagerState, event: Received, reply_to: str) -> ManagerResult:
        match event.message:
            case messages.CreateVm() as create:
                return self._create(state, event, create, reply_to)
            case messages.DestroyVm() as destroy:
                return self._destroy(state, event, destroy, reply_to)
            case messages.RemoveVm() as remove:
                return self._remove(state, event, remove, reply_to)
            case _:
                return self._reject(state, event, RejectReason.UNEXPECTED)

    def _create(
        self, state: ManagerState, event: Received, create: messages.CreateVm, reply_to: str
    ) -> ManagerResult:
        if waits := find(state.waiting, create.vm):
            if (waits.create, waits.reply_to) == (create, reply_to):
                return state, ()  # delivered again: settled together with the first
            held = waits.create.identity() == event.message_id
            return self._refuse(state, event, reply_to, "vm-already-exists", held=held)
        vm = state.vms.get(create.vm)
        known = vm and (vm.create_id, vm.scenario, vm.reply_to)
        if vm is not None and known != (event.message_id, create.scenario, reply_to):
            held = vm.phase == "creating" and vm.create_id == event.message_id
            return self._refuse(state, event, reply_to, "vm-already-exists", held=held)
        if vm is not None and vm.phase == "creating":
            return state, ()  # delivered again: settled together with the first
        if vm is not None:
            return state, creation.created(vm)
        if len(state.vms) + len(state.waiting) >= limits.VMS_MAX:
            return self._refuse(state, event, reply_to, "vm-limit-reached")
        if admission.is_full(state):
            return self._refuse(state, event, reply_to, "no-places", why=why_full())
        return admission.admit(state, create, reply_to)

    def _destroy(
        self, state: ManagerState, event: Received, destroy: messages.DestroyVm, reply_to: str
    ) -> ManagerResult:
        waits = find(state.waiting, destroy.vm)
        if waits is not None and waits.create.incarnation == destroy.incarnation:
            return self._refuse(state, event, reply_to, "vm-not-ready")
        vm = state.vms.get(destroy.vm)
        if vm is None or vm.incarnation != destroy.incarnation:
            return self._refuse(state, event, reply_to, "vm-not-found")
        if vm.phase == "creating":
            return self._refuse(state, event, reply_to, "vm-not-ready")
        if vm.phase == "destroying" and vm.teardown is not None:
            if (vm.teardown.ordering, vm.teardown.reply_to) == (destroy.ordering, reply_to):
                return state, ()  # delivered again: settled together with the first
            return self._refuse(state, event, reply_to, "teardown-running", held=True)
        if vm.phase in ("freed", "stuck"):
            outcome = "freed" if vm.phase == "freed" else "stuck"
            answer = messages.VmDestroyed.model_validate(
                {"vm": vm.name, "incarnation": vm.incarnation, "outcome": outcome}
            )
            return state, self._answer(event, reply_to, answer)
        if excess := too_much(destroy.ordering, vm.scenario):
            return self._refuse(state, event, reply_to, "too-much-work", why=str(excess))
        teardown = Teardown(destroy.ordering, event.message_id, reply_to)
        vm = replace(vm, phase="destroying", teardown=teardown)
        ordering = destroy.ordering.model_dump(mode="json")
        started = observed(Event.TEARDOWN_STARTED, vm.name, ordering=ordering)
        vm, effects = interpreter.run(vm)
        return self._with(state, vm), (started, *effects)

    def _remove(
        self, state: ManagerState, event: Received, remove: messages.RemoveVm, reply_to: str
    ) -> ManagerResult:
        answer = messages.VmRemoved(vm=remove.vm, incarnation=remove.incarnation)
        answered = self._answer(event, reply_to, answer)
        waits = find(state.waiting, remove.vm)
        if waits is not None and waits.create.incarnation == remove.incarnation:
            without, settled = admission.forget(state, remove.vm)
            return without, (*settled, *answered)
        vm = state.vms.get(remove.vm)
        if vm is None or vm.incarnation != remove.incarnation:
            return state, answered
        # The command that this VM was working on is never answered now, so it is settled here.
        held: tuple[Effect, ...] = ()
        if vm.phase == "creating":
            held = (Ack(event.queue, vm.create_id),)
        if vm.phase == "destroying" and vm.teardown is not None:
            held = (Ack(event.queue, vm.teardown.command_id),)
        removed, effects = removal.forget(state, vm)
        return removed, (*held, *effects, *answered)

    def _client_gone(self, state: ManagerState, created: messages.VmCreated) -> ManagerResult:
        """Undo a creation whose client is not there to hear of it."""
        vm = state.vms.get(created.vm)
        if vm is None or vm.incarnation != created.incarnation or vm.phase != "running":
            return state, ()
        return removal.forget(state, vm)

    # --- replies of workers and of the monitor -------------------------------------------

    def _reply(self, state: ManagerState, event: Received) -> ManagerResult:
        message = event.message
        if isinstance(message, messages.WorkerAlive | messages.WorkerLeaving):
            return lost_hosts.hear(state, event, message)
        vm = state.vms.get(message.vm)
        if vm is None or vm.incarnation != message.incarnation or not _has_vcpu(vm, message):
            return self._not_owned(state, event)
        if _is_anothers(vm, event):
            return self._reject(state, event, RejectReason.NOT_OWNED)
        ack = Ack(event.queue, event.message_id)
        match message:
            case messages.VcpuPlaced() if event.reply_to:
                state = admission.learn(state, message)
                before, (vm, effects) = vm, creation.placed(vm, message, event.reply_to)
                effects += lost_hosts.lease(before, vm, message.worker)
            case messages.VcpuStepsDone(outcome="stuck"):
                return self._stuck(state, message, "fence not reached", ack)
            case messages.VcpuStepsDone():
                vm, effects = interpreter.part_done(vm, message.vcpu, message.step)
            case messages.RequestAcked():
                vm, effects = self._acked(vm, message)
            case messages.CommandStuck():
                lost = " by lost connections" if message.why == "connections-lost" else ""
                return self._stuck(state, message, f"delivery limit reached{lost}", ack)
            case messages.Refused():
                return self._give_up(state, vm, message, ack)
            case messages.RootsReleased() if event.reply_to:
                vm, effects = unloading.unload(vm, message, event.reply_to)
            case messages.ZapRequested() if event.reply_to:
                vm, effects = unloading.zap_until_empty(vm, message, event.reply_to)
            case messages.VmStateRead():
                vm, effects = unloading.read_vm_state(vm, message, event.queue)
                return self._with(state, vm), effects
            case _:
                return self._reject(state, event, RejectReason.UNEXPECTED)
        return self._with(state, vm), (*effects, ack)

    def _not_owned(self, state: ManagerState, event: Received) -> ManagerResult:
        """Reject a reply about a VM or vCPU that is not there; a placement's room is given back."""
        after, effects = self._reject(state, event, RejectReason.NOT_OWNED)
        placed = event.message
        if isinstance(placed, messages.VcpuPlaced) and event.reply_to:
            refused = creation.answer_placement(placed, event.reply_to, accepted=False)
            return after, (refused, *effects)
        return after, effects

    def _acked(self, vm: Vm, message: messages.RequestAcked) -> tuple[Vm, tuple[Effect, ...]]:
        was_waiting = vm.is_step_waiting()
        vm, effects = flush_waits.acked(vm, message)
        if was_waiting and not vm.is_step_waiting():
            vm, further = interpreter.step_waited(vm)
            effects = (*effects, *further)
        return vm, effects

    def _give_up(
        self, state: ManagerState, vm: Vm, refused: messages.Refused, ack: Effect
    ) -> ManagerResult:
        """End a creation when the monitor has given up a placement that it waits for."""
        if vm.phase != "creating" or refused.command not in creation.awaited(vm):
            return state, (ack,)
        after, effects = removal.forget(state, vm)
        return after, (*creation.given_up(vm, "connections-lost"), *effects, ack)

    def _stuck(
        self,
        state: ManagerState,
        message: messages.VcpuStepsDone | messages.CommandStuck | messages.DestroyVcpu,
        why: str,
        *settle: Effect,
    ) -> ManagerResult:
        vm = state.vms.get(message.vm)
        # A late word about a step that has ended changes nothing.
        if vm is None or not interpreter.waits_for(vm, message.vcpu, message.step):
            return state, settle
        vm, effects = interpreter.stop_stuck(vm, why, message.vcpu)
        return self._with(state, vm), (*effects, *settle)

    # --- timers ------------------------------------------------------------------------

    def _timer(self, state: ManagerState, name: str) -> ManagerResult:
        timer = parse_timer(name)
        about, _, worker = timer.about.partition("/")
        kind, vm = timer.kind, state.vms.get(about)
        match kind:
            case TimerKind.FENCE | TimerKind.LETTER | TimerKind.ALIVE | TimerKind.LAPSE:
                raise LocalProtocolError(f"{name}: a manager sets no such timer")
            case TimerKind.WAITING:
                return admission.end_wait(state, timer.about)
            case _ if vm is None:
                return state, ()
            case TimerKind.PLACING:
                return self._look(state, vm)
            case TimerKind.QUARANTINE:
                return removal.forget(state, vm)
            case TimerKind.FLUSH:
                return self._flush_expired(state, vm)
            case TimerKind.TICK:
                return self._tick(state, vm)
            case TimerKind.LEASE:
                return lost_hosts.lose(state, vm, worker)
            case _:
                assert_never(kind)

    def _tick(self, state: ManagerState, vm: Vm) -> ManagerResult:
        if not vm.background:
            return state, ()
        vm, effects, _ = requests.clock_update(vm)
        again = SetTimer(TimerKind.TICK.of(vm.name), vm.scenario.ticker_ms)
        return self._with(state, vm), (*effects, again)

    def _look(self, state: ManagerState, vm: Vm) -> ManagerResult:
        """End a creation that does not get its places."""
        state, effects, why = admission.look(state, vm)
        if why is None:
            return state, effects
        after, removed = removal.forget(state, vm)
        return after, (*creation.given_up(vm, "no-places", why), *removed)

    def _flush_expired(self, state: ManagerState, vm: Vm) -> ManagerResult:
        if not vm.waits or vm.phase != "destroying":
            return state, ()
        # All that are missing live: a slow worker is no reason to give up, so wait once more.
        if not flush_waits.are_hopeless(vm, interpreter.freed_vcpus(vm)):
            return state, (flush_waits.timer(vm),)
        vm, effects = interpreter.stop_stuck(vm, flush_waits.why_stuck(vm), None)
        return self._with(state, vm), effects

    # --- small things --------------------------------------------------------------------

    def _with(self, state: ManagerState, vm: Vm) -> ManagerState:
        return state.with_vm(vm)

    def _reject(self, state: ManagerState, event: Received, reason: RejectReason) -> ManagerResult:
        return state, (Reject(event.queue, event.message_id, reason),)

    def _answer(
        self, event: Received, reply_to: str, message: messages.Message
    ) -> tuple[Effect, Effect]:
        publish = Publish(topology.REPLIES.name, reply_to, message, correlation_id=event.message_id)
        return publish, Ack(event.queue, event.message_id)

    def _refuse(
        self,
        state: ManagerState,
        event: Received,
        reply_to: str,
        code: messages.RefusalCode,
        *,
        held: bool = False,
        why: str = "",
    ) -> ManagerResult:
        """Answer a command with a refusal.

        `held` tells that a command of the same id is being worked on: an Ack would settle that one
        too, so this delivery is settled together with it.
        """
        message = event.message
        refused = messages.Refused(
            vm=message.vm,
            incarnation=message.incarnation,
            code=code,
            command=event.message_id,
            why=why,
        )
        publish, ack = self._answer(event, reply_to, refused)
        return state, (publish,) if held else (publish, ack)


def _took_over(state: ManagerState, event: TookOver) -> tuple[Effect, ...]:
    """Say of each VM that lives, or waits to be created, who goes on with it, and from where."""
    told = asdict(event)
    vms = {*state.vms, *(each.vm for each in state.waiting)}
    return tuple(observed(Event.MANAGER_TOOK_OVER, vm, **told) for vm in sorted(vms))


def _rest(result: ManagerResult) -> ManagerResult:
    """Be as at the beginning when no VM lives: a successor need not read what was before that."""
    state, effects = result
    is_idle = not (state.vms or state.waiting or state.placing)
    return (ManagerState() if is_idle else state), effects


def _has_vcpu(vm: Vm, message: messages.Message) -> bool:
    """Tell whether a VM has the vCPU that a message is about; a peer may name any number.

    Of a lost vCPU only the monitor may still tell, whose command nobody waits for any more.
    """
    vcpu = getattr(message, "vcpu", None)
    if vcpu is None or vcpu >= len(vm.slots):
        return vcpu is None
    return not vm.slots[vcpu].lost or isinstance(message, messages.CommandStuck)


def _is_anothers(vm: Vm, event: Received) -> bool:
    """Tell whether a worker speaks of another worker's vCPU; any worker may place one."""
    vcpu = getattr(event.message, "vcpu", None)
    if vcpu is None or isinstance(event.message, messages.VcpuPlaced):
        return False
    owner = vm.slots[vcpu].worker
    speaker = worker_of(event.sender)
    return speaker is not None and owner is not None and speaker != owner

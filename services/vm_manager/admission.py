"""Which creations are taken up, which wait, and which are refused with the reason; pure.

A creation that waits is one unsettled message of `manager.commands`. The number of such messages is
bounded, and the manager's prefetch is larger than all of them together. So the DestroyVm and
RemoveVm that free places always reach the manager, however many creations wait.
"""

from dataclasses import replace

from vm_manager import creation, waiting_room
from vm_manager.state import ManagerResult, ManagerState
from vm_manager.vm import Vm
from vm_manager.waiting_room import Placing, Waiting
from vm_protocol import limits, messages, topology
from vm_protocol.effects import Ack, CancelTimer, Effect, Publish, SetTimer
from vm_protocol.timers import TimerKind


def admit(state: ManagerState, create: messages.CreateVm, reply_to: str) -> ManagerResult:
    """Take a creation up, or let it wait for its turn.

    The caller has seen that there is no VM of this name, and that it may wait (`is_full`).
    """
    waits = Waiting(create, reply_to)
    if state.placing is None:
        return _begin(state, waits)
    timer = SetTimer(TimerKind.WAITING.of(create.vm), limits.CREATION_WAIT_MS)
    return replace(state, waiting=(*state.waiting, waits)), (timer,)


def is_full(state: ManagerState) -> bool:
    """Tell whether no further creation may wait."""
    return len(state.waiting) >= limits.CREATIONS_WAITING_MAX


def go_on(result: ManagerResult) -> ManagerResult:
    """Let the next creation take places if the last one has ended, whether it succeeded or not."""
    state, effects = result
    placing = state.placing
    if placing is None or _is_creating(state, placing.vm):
        return result
    over: Effect = CancelTimer(TimerKind.PLACING.of(placing.vm))
    state = replace(state, placing=None)
    if not state.waiting:
        return state, (*effects, over)
    first, *others = state.waiting
    state, begun = _begin(replace(state, waiting=tuple(others)), first)
    return state, (*effects, over, *begun)


def learn(state: ManagerState, placed: messages.VcpuPlaced) -> ManagerState:
    """Note how many places a worker says it has; strangers' names are bounded."""
    is_known = placed.worker in state.places
    if not placed.places or (not is_known and len(state.places) >= limits.WORKERS_MAX):
        return state
    return replace(state, places=state.places.set(placed.worker, placed.places))


def look(state: ManagerState, vm: Vm) -> tuple[ManagerState, tuple[Effect, ...], str | None]:
    """Look at the VM that takes places; return why its creation has to end, or None.

    It goes on as long as it gets places. When it gets none, it waits for places of other VMs, but
    only if all known workers together could hold it.
    """
    placing = state.placing
    if placing is None or placing.vm != vm.name:
        return state, (), None
    placed = waiting_room.placed_count(vm)
    # Start over at each place that was got: only a creation without progress is ended.
    idle_ms = 0 if placed > placing.placed else placing.idle_ms + limits.PLACING_MS
    known = waiting_room.known_places(state.vms.values(), state.places.items())
    never = known > 0 and len(vm.slots) > known
    if idle_ms >= (limits.PLACING_MS if never else limits.CREATION_WAIT_MS):
        return state, (), waiting_room.why_not_placed(vm, known)
    again = SetTimer(TimerKind.PLACING.of(vm.name), limits.PLACING_MS)
    return replace(state, placing=Placing(vm.name, placed, idle_ms)), (again,), None


def end_wait(state: ManagerState, vm: str) -> ManagerResult:
    """Refuse a creation whose turn has not come."""
    waits = waiting_room.find(state.waiting, vm)
    if waits is None:
        return state, ()
    why = waiting_room.why_not_begun(waits)
    refused = messages.Refused(
        vm=vm,
        incarnation=waits.create.incarnation,
        code="no-places",
        command=waits.create.identity(),
        why=why,
    )
    answer = Publish(topology.REPLIES.name, waits.reply_to, refused, correlation_id=refused.command)
    after, ended = forget(state, vm)
    return after, (answer, *ended)


def forget(state: ManagerState, vm: str) -> ManagerResult:
    """Take a creation out of those that wait, and settle its command."""
    waits = waiting_room.find(state.waiting, vm)
    if waits is None:
        return state, ()
    left = waiting_room.without(state.waiting, vm)
    timer = CancelTimer(TimerKind.WAITING.of(vm))
    settled = Ack(topology.MANAGER_COMMANDS_QUEUE.name, waits.create.identity())
    return replace(state, waiting=left), (timer, settled)


def _begin(state: ManagerState, waits: Waiting) -> ManagerResult:
    vm, effects = creation.create(waits.create, waits.reply_to)
    state = replace(state.with_vm(vm), placing=Placing(vm.name))
    return state, (*waiting_room.begun(vm.name), *effects)


def _is_creating(state: ManagerState, name: str) -> bool:
    vm = state.vms.get(name)
    return vm is not None and vm.phase == "creating"

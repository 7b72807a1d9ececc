"""One step of a core as the explorer needs it: the next state, and operations on the queues.

Steps are computed once by the real core and remembered: many interleavings meet in the same state
of one actor with the same input.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, assert_never

from teardown_lab.checker.invariants_state import FREED_BY, STOPPED_BY
from teardown_lab.explorer.cast import VM, Cast
from teardown_lab.explorer.findings import BY_REJECT, OVERLAPPED, TO_NOBODY, UNLOAD_FLUSHED, Finding
from teardown_lab.explorer.interning import Interned
from vm_manager.state import ManagerState
from vm_protocol import effects, messages, topology
from vm_protocol.effects import Effect, Input, Observed, Publish, Received
from vm_protocol.errors import RejectReason
from vm_protocol.invariants import Invariant
from vm_protocol.observations import Event
from vm_protocol.timers import TimerKind, parse_timer
from vm_protocol.topology import Mailbox, parse_mailbox

(
    SEND,
    POST,
    UNBIND,
    ACK,
    REQUEUE,
    DROP,
    SET,
    CANCEL,
    FIND,
    RAISED,
    VM_FREED,
    WITNESS,
    PAGE,
    STARTED,
    REACHED,
) = range(15)
"""Operations: what a step asks of the queues, and what it lets the explorer see."""

_SEEN_ONLY: Final = frozenset({STARTED, REACHED})
"""Operations that only let the explorer see something."""

Operation = tuple[Any, ...]
MANAGER: Final = 0

OVERLAP: Final = 2
"""So many commands in flight overlap."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message with the queue that its sender wants answers on."""

    message: messages.Message
    reply_to: str | None
    epoch: int


class Letters(Interned[Letter]):
    """The letters of an exploration; what is asked often of each is computed once."""

    def __init__(self) -> None:
        super().__init__()
        self._ids: list[str] = []
        self._generations: list[int] = []

    def number(self, value: Letter) -> int:
        """Return the number of a letter, a new one if it is new."""
        number = super().number(value)
        if number == len(self._ids):
            self._ids.append(value.message.identity())
            self._generations.append(getattr(value.message, "generation", 0))
        return number

    def identity(self, letter: int) -> str:
        """Return the id of the message in a letter."""
        return self._ids[letter]

    def generation(self, letter: int) -> int:
        """Return the generation that the message in a letter carries, 0 if it has none."""
        return self._generations[letter]


@dataclass(frozen=True, slots=True)
class Step:
    """An actor's next state, and the operations in their order.

    `settles_only`: the step does nothing but settle the message.
    """

    state: int
    operations: tuple[Operation, ...]
    settles_only: bool


class Steps:
    """The steps of all actors: 0 is the manager, v + 1 the worker of vCPU v."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self.letters = Letters()
        self.timers: Interned[tuple[int, str]] = Interned()
        self.states: tuple[Interned[Any], ...] = tuple(
            Interned() for _ in range(len(cast.workers) + 1)
        )
        self._cores = (cast.manager, *cast.workers)
        self._epochs = (cast.manager.epoch, *(0 for _ in cast.workers))
        self._queue_numbers = {name: number for number, name in enumerate(cast.queues)}
        self._holders = {
            root.name: {pin.vcpu for pin in root.pins} for root in cast.manager_state.vms[VM].roots
        }
        self._known: dict[tuple[int, int, int, int], Step] = {}
        self._timed: dict[tuple[int, int], Step] = {}

    def deliver(self, actor: int, state: int, queue: int, letter: int) -> Step:
        """Return the step of an actor that gets a message."""
        key = (actor, state, queue, letter)
        known = self._known.get(key)
        if known is None:
            sent = self.letters.value(letter)
            message = sent.message
            event = Received(
                self.cast.queues[queue], message, message.identity(), sent.epoch, sent.reply_to
            )
            known = self._known[key] = self._step(actor, state, event)
        return known

    def fire(self, timer: int, state: int) -> Step:
        """Return the step of an actor whose timer fires."""
        known = self._timed.get((timer, state))
        if known is None:
            actor, name = self.timers.value(timer)
            known = self._step(actor, state, effects.TimerFired(name))
            self._timed[timer, state] = known
        return known

    def complete_fault(self, vcpu: int, state: int, fault: int) -> Step:
        """Return the step of a worker whose vCPU's async page fault completes just now."""
        done = messages.AsyncPfCompleted(vm=VM, vcpu=vcpu, fault=fault)
        letter = self.letters.number(Letter(done, None, 0))
        queue = self._queue_numbers[self.cast.workers[vcpu].queues.commands]
        return self.deliver(vcpu + 1, state, queue, letter)

    def _step(self, actor: int, state: int, event: Input) -> Step:
        core: Any = self._cores[actor]
        before = self.states[actor].value(state)
        after, done = core.step(before, event)
        scene = self._scene(actor, before, event, after)
        operations = [each for effect in done for each in self._compile(actor, scene, effect)]
        if actor == MANAGER and _in_flight(before) < OVERLAP <= _in_flight(after):
            operations.append((WITNESS, OVERLAPPED))
        if actor == MANAGER and _position(before) != _position(after):
            operations.append((REACHED, _position(after)))
        asked = [operation for operation in operations if operation[0] not in _SEEN_ONLY]
        settles_only = all(operation[0] in (ACK, DROP) for operation in asked)
        return Step(self.states[actor].number(after), tuple(operations), settles_only)

    def _scene(self, actor: int, before: Any, event: Input, after: Any) -> "_Scene":
        if actor == MANAGER:
            vm = before.vms.get(VM)
            gone = vm.freed_state if vm is not None else frozenset()
            asker = getattr(event.message, "vcpu", None) if isinstance(event, Received) else None
            return _Scene(after, _erased(before), self._holders, set(gone), asker=asker)
        owned = before.vcpus.get(Mailbox(VM, actor - 1))
        is_freed = owned is not None and owned.freed
        is_inside = owned is not None and owned.in_guest
        return _Scene(after, set(), self._holders, set(), is_freed, is_inside, owner=actor - 1)

    def _compile(self, actor: int, scene: "_Scene", effect: Effect) -> list[Operation]:
        match effect:
            case Publish():
                return self._publish(actor, scene, effect)
            case effects.Unbind(mailbox):
                return [(UNBIND, mailbox.vcpu)]
            case effects.Ack(queue, message_id):
                return [(ACK, self._queue_numbers.get(queue, -1), message_id)]
            case effects.Reject():
                return self._reject(scene, effect)
            case effects.SetTimer(name):
                # The search ends before any quarantine does.
                if parse_timer(name).kind is TimerKind.QUARANTINE:
                    return []
                return [(SET, self.timers.number((actor, name)))]
            case effects.CancelTimer(name):
                return [(CANCEL, self.timers.number((actor, name)))]
            case Observed():
                return _OBSERVED.get(effect.event, _nothing)(effect, scene)
            case (
                effects.Consume()
                | effects.StopConsuming()
                | effects.DeclareMailbox()
                | effects.ConsumeMailbox()
                | effects.DeleteMailbox()
                | effects.DeleteQueue()
                | effects.Bind()
            ):
                return []  # the search begins with all queues there, bound and consumed
            case _:
                assert_never(effect)

    def _publish(self, actor: int, scene: "_Scene", publish: Publish) -> list[Operation]:
        message = publish.message
        letter = self.letters.number(Letter(message, publish.reply_to, self._epochs[actor]))
        if publish.exchange == topology.REQUESTS.name:
            recipients = getattr(message, "recipients", ())
            expected = sum(1 << vcpu for vcpu in recipients)
            return [(POST, letter, tuple(sorted(scene.erased)), expected)]
        queue = self._queue_numbers.get(publish.routing_key)
        return [] if queue is None else [(SEND, queue, letter)]

    def _reject(self, scene: "_Scene", reject: effects.Reject) -> list[Operation]:
        queue = self._queue_numbers.get(reject.queue, -1)
        if reject.requeue:
            return [(REQUEUE, queue, reject.message_id)]
        operations: list[Operation] = [(DROP, queue, reject.message_id)]
        invariant = BY_REJECT.get(reject.reason)
        if invariant is not None and parse_mailbox(reject.queue) is None:
            vcpu = scene.asker if scene.owner is None else scene.owner
            assert vcpu is not None, "what breaks one of these is said by a vCPU's worker"
            operations.append((FIND, Finding(invariant, vcpu, message=reject.message_id)))
        if reject.reason == RejectReason.FENCE_NOT_REACHED:
            operations.append((WITNESS, "fence-expired"))
        return operations


@dataclass(slots=True)
class _Scene:
    """A core's state after the step, and what is gone in the middle of it.

    `erased` are vCPUs, `gone` is VM-level state, `freed` and `inside` (its guest) tell of the
    worker's vCPU, its `owner` if it is a worker's step. `holders` are those who pinned each root
    when the VM was created; `robbed` are vCPUs whose pins on a root went although the message came
    from another, the `asker`.
    """

    after: Any
    erased: set[int]
    holders: dict[str, set[int]]
    gone: set[str]
    freed: bool = False
    inside: bool = False
    asker: int | None = None
    owner: int | None = None
    robbed: dict[str, set[int]] = field(default_factory=dict)


def _in_flight(state: ManagerState) -> int:
    """Return how many vCPUs' commands the manager waits for."""
    vm = state.vms.get(VM)
    loop = vm.teardown.loop if vm is not None and vm.teardown is not None else None
    return len(loop.running) if loop is not None else 0


def _position(state: ManagerState) -> int:
    """Return the step of the ordering that the teardown has come to, -1 where there is none."""
    vm = state.vms.get(VM)
    return vm.teardown.position if vm is not None and vm.teardown is not None else -1


def _erased(state: ManagerState) -> set[int]:
    vm = state.vms.get(VM)
    slots = vm.slots if vm is not None else ()
    return {index for index, slot in enumerate(slots) if not slot.present}


def _nothing(_effect: Observed, _scene: _Scene) -> list[Operation]:
    return []


def _vcpu_erased(effect: Observed, scene: _Scene) -> list[Operation]:
    scene.erased |= set() if effect.vcpu is None else {effect.vcpu}
    return []


def _vcpu_freed(effect: Observed, scene: _Scene) -> list[Operation]:
    """Note a free; the core's own refusal of a second one is not relied upon."""
    again, scene.freed = scene.freed, True
    if again:
        return [(FIND, _on_vcpu(Invariant.DOUBLE_FREE, effect))]
    return [(FIND, _on_vcpu(Invariant.FREED_WHILE_RUNNING, effect))] if scene.inside else []


def _guest_left(_effect: Observed, scene: _Scene) -> list[Operation]:
    scene.inside = False
    return []


def _step_started(effect: Observed, scene: _Scene) -> list[Operation]:
    name = dict(effect.details)["name"]
    erased = effect.vcpu if name == "erase_vcpu" else None
    started: Operation = (STARTED, scene.owner, scene.freed, erased)
    if not scene.freed or effect.vcpu is None:
        return [started]
    broken = Invariant.DOUBLE_FREE if name == "free_vcpu" else Invariant.USE_AFTER_FREE
    return [started, (FIND, _on_vcpu(broken, effect))]


def _fault_completed(effect: Observed, scene: _Scene) -> list[Operation]:
    return [(FIND, _on_vcpu(Invariant.USE_AFTER_FREE, effect))] if scene.freed else []


def _on_vcpu(invariant: str, effect: Observed) -> Finding:
    vcpu = -1 if effect.vcpu is None else effect.vcpu
    return Finding(invariant, vcpu, message=effect.message_id or "")


def _state_freed(effect: Observed, scene: _Scene) -> list[Operation]:
    state = str(dict(effect.details)["state"])
    again = state in scene.gone
    scene.gone.add(state)
    return [(FIND, Finding(Invariant.DOUBLE_FREE, -1, message=state))] if again else []


def _state_read(effect: Observed, scene: _Scene) -> list[Operation]:
    if dict(effect.details)["state"] not in scene.gone:
        return []
    return [(FIND, _on_vcpu(Invariant.VM_STATE_USED_AFTER_FREE, effect))]


def _raised(effect: Observed, scene: _Scene) -> list[Operation]:
    details = dict(effect.details)
    recipients = details["recipients"]
    assert isinstance(recipients, tuple), "a request's recipients are a tuple"
    everybody = range(len(scene.after.vms[VM].slots))
    missed = tuple(v for v in everybody if v not in scene.erased and v not in recipients)
    operations: list[Operation] = [(RAISED, missed, effect.message_id or "")]
    if details["kind"] == messages.TLB_FLUSH and not recipients:
        operations.append((FIND, _on_vcpu(TO_NOBODY, effect)))
    if details["kind"] == messages.TLB_FLUSH and details["by"] == "unload" and recipients:
        operations.append((WITNESS, UNLOAD_FLUSHED))
    return operations


def _root_unpinned(effect: Observed, scene: _Scene) -> list[Operation]:
    if effect.vcpu is not None and scene.asker not in (None, effect.vcpu):
        scene.robbed.setdefault(str(dict(effect.details)["root"]), set()).add(effect.vcpu)
    return []


def _root_freed(effect: Observed, scene: _Scene) -> list[Operation]:
    details = dict(effect.details)
    pins = details["pins"]
    assert isinstance(pins, tuple), "a root's pins are a tuple"
    held = {int(str(pin).partition(".")[0]) for pin in pins}
    held |= scene.robbed.get(str(details["root"]), set())
    if not held:
        return []
    vcpu = _only(held)
    return [(FIND, Finding(Invariant.PINNED_ROOT_FREED, vcpu, message=str(details["root"])))]


def _vm_freed(_effect: Observed, scene: _Scene) -> list[Operation]:
    vm = scene.after.vms[VM]
    found = [_of_root(Invariant.LEAK, scene, root.name) for root in vm.roots]
    mapped = (page.root for page in vm.pages if page.mapped)
    found += [_of_root(Invariant.MEMORY_MAPPED, scene, root) for root in mapped]
    left = (state for state in FREED_BY if state not in scene.gone)
    found += [Finding(Invariant.LEAK, -1, message=state) for state in left]
    assert vm.teardown is not None, "a VM is freed by its teardown"
    if STOPPED_BY not in vm.teardown.ordering.steps:  # all of which have run
        found.append(Finding(Invariant.VM_STATE_USED_AFTER_FREE, -1, message="vm"))
    given_back = [(PAGE, page.root) for page in vm.pages]
    return [*((FIND, each) for each in found), *given_back, (VM_FREED,)]


def _of_root(invariant: str, scene: _Scene, root: str) -> Finding:
    return Finding(invariant, _only(scene.holders[root]), message=root)


def _only(vcpus: set[int]) -> int:
    """Return the vCPU that a root's violation is about: its only holder, or none."""
    return next(iter(vcpus)) if len(vcpus) == 1 else -1


def _stuck(effect: Observed, _scene: _Scene) -> list[Operation]:
    return [(FIND, Finding(Invariant.STUCK, -1 if effect.vcpu is None else effect.vcpu))]


def _page_freed(effect: Observed, _scene: _Scene) -> list[Operation]:
    return [(PAGE, dict(effect.details)["root"])]


_OBSERVED: Final[dict[Event, Callable[[Observed, _Scene], list[Operation]]]] = {
    Event.VCPU_ERASED: _vcpu_erased,
    Event.VCPU_FREED: _vcpu_freed,
    Event.GUEST_LEFT: _guest_left,
    Event.STEP_STARTED: _step_started,
    Event.ASYNC_PF_COMPLETED: _fault_completed,
    Event.VM_STATE_FREED: _state_freed,
    Event.VM_STATE_READ: _state_read,
    Event.REQUEST_POSTED: _raised,
    Event.ROOT_UNPINNED: _root_unpinned,
    Event.ROOT_FREED: _root_freed,
    Event.VM_FREED: _vm_freed,
    Event.TEARDOWN_STUCK: _stuck,
    Event.PAGE_FREED: _page_freed,
}

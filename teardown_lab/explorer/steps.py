"""One step of a core as the explorer needs it: the next state, and operations on the queues.

Steps are computed once by the real core and remembered: many interleavings meet in the same state
of one actor with the same input.
"""

from dataclasses import dataclass
from typing import Any, Final, assert_never

from teardown_lab.explorer.cast import VM, Cast
from teardown_lab.explorer.findings import BY_REJECT, OVERLAPPED, Finding
from teardown_lab.explorer.interning import Interned
from teardown_lab.explorer.operations import (
    ACK,
    CANCEL,
    DROP,
    FIND,
    POST,
    REACHED,
    REQUEUE,
    SEEN_ONLY,
    SEND,
    SET,
    UNBIND,
    WITNESS,
    Operation,
)
from teardown_lab.explorer.scene import OBSERVED, Scene, nothing
from vm_manager.state import ManagerState
from vm_protocol import effects, messages, topology
from vm_protocol.effects import Effect, Input, Observed, Publish, Received
from vm_protocol.errors import RejectReason
from vm_protocol.timers import LEASES, TimerKind, parse_timer
from vm_protocol.topology import Mailbox, parse_mailbox

MANAGER: Final = 0

_NOT_SEARCHED: Final = (TimerKind.QUARANTINE, *LEASES)
"""Timers that never fire here: the search ends before any quarantine, and every worker lives."""

OVERLAP: Final = 2
"""So many commands in flight overlap."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message with the queue that its sender wants answers on.

    The sender's `epoch`, `entry` and `ended` are as in Received; entries are counted from the end
    of their epoch, so that those before it are 0, and one behind it is 1.
    """

    message: messages.Message
    reply_to: str | None
    epoch: int
    entry: int = 0
    ended: tuple[tuple[int, int], ...] = ()


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

    `settles_only`: the step does nothing but settle the message. `effects` are the operations that
    change something at the broker, in order; `settles` those that settle a delivery.
    `refuses_stale`: the message is refused as that of a superseded manager.
    """

    state: int
    operations: tuple[Operation, ...]
    settles_only: bool
    effects: tuple[Operation, ...]
    settles: tuple[Operation, ...]
    refuses_stale: bool = False

    @classmethod
    def of(cls, state: int, operations: list[Operation], *, refuses_stale: bool) -> "Step":
        """Return the step with these operations."""
        asked = [operation for operation in operations if operation[0] not in SEEN_ONLY]
        out = tuple(each for each in asked if each[0] in (SEND, POST, UNBIND))
        settles = tuple(each for each in asked if each[0] in (ACK, DROP))
        is_settled = len(settles) == len(asked)
        return cls(state, tuple(operations), is_settled, out, settles, refuses_stale)

    def with_operations(self, operations: list[Operation]) -> "Step":
        """Return the step with other operations."""
        return Step.of(self.state, operations, refuses_stale=self.refuses_stale)


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
                self.cast.queues[queue],
                message,
                message.identity(),
                sent.epoch,
                sent.reply_to,
                entry=sent.entry,
                ended=sent.ended,
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
        refuses = any(
            isinstance(effect, effects.Reject) and effect.reason == RejectReason.STALE_EPOCH
            for effect in done
        )
        return Step.of(self.states[actor].number(after), operations, refuses_stale=refuses)

    def _scene(self, actor: int, before: Any, event: Input, after: Any) -> Scene:
        if actor == MANAGER:
            vm = before.vms.get(VM)
            gone = vm.freed_state if vm is not None else frozenset()
            asker = getattr(event.message, "vcpu", None) if isinstance(event, Received) else None
            return Scene(after, _erased(before), self._holders, set(gone), asker=asker)
        owned = before.vcpus.get(Mailbox(VM, actor - 1))
        is_freed = owned is not None and owned.freed
        is_inside = owned is not None and owned.in_guest
        return Scene(after, set(), self._holders, set(), is_freed, is_inside, owner=actor - 1)

    def _compile(self, actor: int, scene: Scene, effect: Effect) -> list[Operation]:
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
                if parse_timer(name).kind in _NOT_SEARCHED:
                    return []
                return [(SET, self.timers.number((actor, name)))]
            case effects.CancelTimer(name):
                if parse_timer(name).kind in _NOT_SEARCHED:
                    return []
                return [(CANCEL, self.timers.number((actor, name)))]
            case Observed():
                return OBSERVED.get(effect.event, nothing)(effect, scene)
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

    def _publish(self, actor: int, scene: Scene, publish: Publish) -> list[Operation]:
        message = publish.message
        letter = self.letters.number(Letter(message, publish.reply_to, self._epochs[actor]))
        if publish.exchange == topology.REQUESTS.name:
            recipients = getattr(message, "recipients", ())
            expected = sum(1 << vcpu for vcpu in recipients)
            return [(POST, letter, tuple(sorted(scene.erased)), expected)]
        queue = self._queue_numbers.get(publish.routing_key)
        return [] if queue is None else [(SEND, queue, letter)]

    def _reject(self, scene: Scene, reject: effects.Reject) -> list[Operation]:
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

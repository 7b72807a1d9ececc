"""Who takes part in an exploration, and the state in which it begins: "VM created".

One worker for each vCPU: the freest arrangement, as nothing but messages orders two vCPUs.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from vcpu_worker import VcpuWorker
from vm_manager import VmManager
from vm_protocol import effects, messages, topology
from vm_protocol.effects import Received, Started
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

VM = "vm-0"
CLIENT = topology.client_replies(VM).name
MANAGER_COMMANDS = topology.MANAGER_COMMANDS_QUEUE.name
MANAGER_REPLIES = topology.MANAGER_REPLIES_QUEUE.name


def worker_name(vcpu: int) -> str:
    """Return the name of a vCPU's worker; names sort like numbers, so placement is in order."""
    return f"worker-{vcpu}"


@dataclass(frozen=True, slots=True)
class Cast:
    """The cores and their states once the VM is created, and the command that is next.

    `queues` are the names of all queues that can hold a message from here on.
    """

    manager: VmManager
    workers: tuple[VcpuWorker, ...]
    manager_state: Any
    worker_states: tuple[Any, ...]
    ordering: Ordering
    scenario: Scenario
    queues: tuple[str, ...]
    destroy: messages.DestroyVm


def assemble(ordering: Ordering, scenario: Scenario) -> Cast:
    """Return the cast of an exploration, the VM created by the cores themselves."""
    manager = VmManager()
    workers = tuple(VcpuWorker(worker_name(vcpu), 1) for vcpu in range(scenario.vcpus))
    manager_state, _ = manager.step(manager.initial(), Started())
    worker_states = [worker.step(worker.initial(), Started())[0] for worker in workers]
    create = messages.CreateVm(vm=VM, scenario=scenario)
    inbox: deque[tuple[str, effects.Publish]] = deque()
    received = Received(MANAGER_COMMANDS, create, create.identity(), 0, CLIENT)
    manager_state, done = manager.step(manager_state, received)
    inbox += [(topology.PLACEMENT_QUEUE.name, each) for each in _sent(done)]
    while inbox:
        queue, publish = inbox.popleft()
        message = publish.message
        if isinstance(message, messages.PlaceVcpu):
            taken = Received(queue, message, message.identity(), manager.epoch, publish.reply_to)
            state, done = workers[message.vcpu].step(worker_states[message.vcpu], taken)
            worker_states[message.vcpu] = state
            inbox += [(MANAGER_REPLIES, each) for each in _sent(done)]
        elif isinstance(message, messages.VcpuPlaced):
            taken = Received(queue, message, message.identity(), 0, publish.reply_to)
            manager_state, done = manager.step(manager_state, taken)
            replies = workers[message.vcpu].queues.replies
            inbox += [(_queue_of(each, replies), each) for each in _sent(done)]
        elif isinstance(message, messages.PlacementAnswered):
            taken = Received(queue, message, message.identity(), manager.epoch)
            state, _ = workers[message.vcpu].step(worker_states[message.vcpu], taken)
            worker_states[message.vcpu] = state
    queues = [MANAGER_COMMANDS, MANAGER_REPLIES]
    for worker in workers:
        queues += [worker.queues.commands, worker.queues.replies]
    queues += [topology.Mailbox(VM, vcpu).name for vcpu in range(scenario.vcpus)]
    destroy = messages.DestroyVm(vm=VM, ordering=ordering)
    return Cast(
        manager,
        workers,
        manager_state,
        tuple(worker_states),
        ordering,
        scenario,
        tuple(queues),
        destroy,
    )


def _queue_of(publish: effects.Publish, replies: str) -> str:
    """Return where the manager's answer to a placement goes, or the next placement with it."""
    is_next = isinstance(publish.message, messages.PlaceVcpu)
    return topology.PLACEMENT_QUEUE.name if is_next else replies


def _sent(done: tuple[effects.Effect, ...]) -> list[effects.Publish]:
    placed = (messages.PlaceVcpu, messages.VcpuPlaced, messages.PlacementAnswered)
    return [
        effect
        for effect in done
        if isinstance(effect, effects.Publish) and isinstance(effect.message, placed)
    ]


__all__ = ["CLIENT", "MANAGER_COMMANDS", "VM", "Cast", "assemble", "worker_name"]

"""Creating a VM: mailboxes, roots, placement of its vCPUs; pure."""

from dataclasses import replace

from vm_manager import roots
from vm_manager.memory import Page
from vm_manager.vm import Slot, Vm, VmStepped
from vm_protocol import limits, messages, topology
from vm_protocol.effects import (
    Ack,
    Bind,
    DeclareMailbox,
    Effect,
    Publish,
    SetTimer,
    observed,
)
from vm_protocol.observations import Event
from vm_protocol.scenario import root_contexts
from vm_protocol.timers import TimerKind


def create(command: messages.CreateVm, reply_to: str) -> VmStepped:
    """Allocate and pin roots; make the first vCPUs visible, and ask for their placement."""
    vm = Vm(
        name=command.vm,
        incarnation=command.incarnation,
        scenario=command.scenario,
        reply_to=reply_to,
        create_id=command.identity(),
        slots=(Slot(),) * command.scenario.vcpus,
        in_guest=frozenset(command.scenario.in_guest),
    )
    listed, effects = roots.allocate(vm.name, command.scenario)
    pages = tuple(Page(root.name) for root in listed)
    vm = replace(vm, roots=listed, pages=pages)
    vm, asked = _ask(vm, limits.PLACEMENTS_AT_ONCE)
    return vm, (*effects, *asked)


def _ask(vm: Vm, count: int) -> VmStepped:
    """Make so many further vCPUs visible, or those that are left, and ask for their placement."""
    until = min(vm.asked + count, len(vm.slots))
    shown: list[Effect] = []
    for mailbox in map(vm.mailbox, range(vm.asked, until)):
        # Declared and bound before it is offered: whichever worker takes it finds its mailbox.
        shown += [DeclareMailbox(mailbox), Bind(mailbox)]
        visible = observed(Event.VCPU_VISIBLE, vm.name, mailbox.vcpu, mailbox=mailbox.name)
        shown.append(visible)
    placements = tuple(
        Publish(
            topology.PLACEMENT.name,
            topology.PLACEMENT_QUEUE.name,
            _placement(vm, vcpu),
            mandatory=True,
            reply_to=topology.MANAGER_REPLIES_QUEUE.name,
        )
        for vcpu in range(vm.asked, until)
    )
    return replace(vm, asked=until), (*shown, *placements)


def _placement(vm: Vm, vcpu: int) -> messages.PlaceVcpu:
    scenario = vm.scenario
    first, second = root_contexts(scenario, vcpu)
    return messages.PlaceVcpu(
        vm=vm.name,
        incarnation=vm.incarnation,
        vcpu=vcpu,
        contexts=(tuple(name for name, _ in first), tuple(name for name, _ in second)),
        async_pf=scenario.async_pf,
        nested=vcpu in scenario.nested,
        avic=scenario.avic,
        in_guest=vcpu in scenario.in_guest,
        fence_ms=scenario.fence_ms,
    )


def placed(vm: Vm, message: messages.VcpuPlaced, reply_to: str) -> VmStepped:
    """Answer a worker that took a vCPU's placement: the first one owns it, others forget it.

    When the last vCPU is placed, the VM is created and its ticker starts.
    """
    slot = vm.slots[message.vcpu]
    # A placement may reach two workers (decision 0014); the first to answer owns the vCPU.
    is_first = vm.phase == "creating" and slot.worker is None
    accepted = is_first or slot.worker == message.worker
    answer = answer_placement(message, reply_to, accepted=accepted)
    if not is_first:
        return vm, (answer,)
    vm = vm.with_slot(message.vcpu, replace(slot, worker=message.worker))
    if any(slot.worker is None for slot in vm.slots):
        vm, further = _ask(vm, 1)
        return vm, (answer, *further)
    effects: tuple[Effect, ...] = (
        answer,
        observed(
            Event.VM_CREATED,
            vm.name,
            scenario=vm.scenario.model_dump(mode="json"),
            workers=_workers(vm),
        ),
        *created(vm),
    )
    if vm.scenario.ticker:
        effects += (SetTimer(TimerKind.TICK.of(vm.name), vm.scenario.ticker_ms),)
    return replace(vm, phase="running"), effects


def answer_placement(placed: messages.VcpuPlaced, reply_to: str, *, accepted: bool) -> Effect:
    """Return the answer to a worker that has taken a placement."""
    answer = messages.PlacementAnswered(
        vm=placed.vm,
        incarnation=placed.incarnation,
        vcpu=placed.vcpu,
        worker=placed.worker,
        accepted=accepted,
    )
    return Publish(
        topology.REPLIES.name,
        reply_to,
        answer,
        mandatory=True,
        correlation_id=placed.identity(),
    )


def _workers(vm: Vm) -> tuple[str, ...]:
    return tuple(sorted({slot.worker for slot in vm.slots if slot.worker is not None}))


def created(vm: Vm) -> tuple[Effect, ...]:
    """Return the answer to CreateVm; it comes back if its client is gone."""
    message = messages.VmCreated(vm=vm.name, incarnation=vm.incarnation, workers=_workers(vm))
    return _to_client(vm, message, mandatory=True)


def awaited(vm: Vm) -> set[str]:
    """Return the ids of the placements that nobody has answered yet."""
    asked = enumerate(vm.slots[: vm.asked])
    vcpus = (vcpu for vcpu, slot in asked if slot.worker is None)
    return {_placement(vm, vcpu).identity() for vcpu in vcpus}


def given_up(vm: Vm, code: messages.RefusalCode, why: str = "") -> tuple[Effect, ...]:
    """Return the answer to a CreateVm whose vCPUs cannot be placed."""
    message = messages.Refused(
        vm=vm.name, incarnation=vm.incarnation, code=code, command=vm.create_id, why=why
    )
    return _to_client(vm, message)


def _to_client(vm: Vm, message: messages.Message, *, mandatory: bool = False) -> tuple[Effect, ...]:
    publish = Publish(
        topology.REPLIES.name,
        vm.reply_to,
        message,
        mandatory=mandatory,
        correlation_id=vm.create_id,
    )
    return publish, Ack(topology.MANAGER_COMMANDS_QUEUE.name, vm.create_id)

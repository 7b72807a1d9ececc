"""A manager with VMs, and workers played by the test."""

from typing import Any

from support.cores import Stepper, sent
from vm_manager import ManagerState, VmManager
from vm_manager.vm import Vm
from vm_protocol import messages
from vm_protocol.effects import Ack, Effect, Publish, Received
from vm_protocol.messages import Message
from vm_protocol.ordering import ForEachVcpu, Loop, Ordering
from vm_protocol.scenario import Scenario

COMMANDS = "manager.commands"
REPLIES = "manager.replies"
CLIENT = "client.c.replies"
WORKER = "worker.w.replies"
QUIET = Scenario(vcpus=2, ticker=False)


def loop(*steps: str, **shape: Any) -> ForEachVcpu:
    return ForEachVcpu(for_each_vcpu=Loop.model_validate({"steps": steps, **shape}))


def ordering(*steps: str | ForEachVcpu, **fields: Any) -> Ordering:
    return Ordering.model_validate({"name": "o", "steps": steps, **fields})


def create(scenario: Scenario = QUIET, incarnation: int = 1) -> messages.CreateVm:
    return messages.CreateVm(vm="vm-0", incarnation=incarnation, scenario=scenario)


def destroy(*steps: str | ForEachVcpu, **fields: Any) -> messages.DestroyVm:
    return messages.DestroyVm(vm="vm-0", ordering=ordering(*steps, **fields))


def placement_answered(vcpu: int, worker: str, *, accepted: bool = True) -> list[Effect]:
    """The manager's answer to VcpuPlaced, and the ack that goes with it."""
    answer = messages.PlacementAnswered(vm="vm-0", vcpu=vcpu, worker=worker, accepted=accepted)
    told = Publish(
        "replies",
        WORKER,
        answer,
        mandatory=True,
        correlation_id=placed(vcpu, worker).identity(),
    )
    return [told, Ack(REPLIES, placed(vcpu, worker).identity())]


def placed(vcpu: int, worker: str = "w") -> messages.VcpuPlaced:
    return messages.VcpuPlaced(vm="vm-0", vcpu=vcpu, worker=worker)


def done(command: messages.DestroyVcpu, outcome: str = "done") -> messages.VcpuStepsDone:
    return messages.VcpuStepsDone.model_validate(
        {"vm": command.vm, "vcpu": command.vcpu, "step": command.step, "outcome": outcome}
    )


def released(vcpu: int, first: tuple[str, ...] = (), second: tuple[str, ...] = ()) -> Message:
    return messages.RootsReleased(
        vm="vm-0", vcpu=vcpu, step="0.0", position=0, contexts=(first, second)
    )


def to_client(message: Message, of: Message) -> list[Effect]:
    """The answer to a client's command, with its acknowledgement."""
    asked_back = isinstance(message, messages.VmCreated)
    publish = Publish(
        "replies", CLIENT, message, mandatory=asked_back, correlation_id=of.identity()
    )
    return [publish, Ack(COMMANDS, of.identity())]


def refusal(of: Message, code: str) -> Message:
    return messages.Refused.model_validate(
        {"vm": of.vm, "incarnation": of.incarnation, "code": code, "command": of.identity()}
    )


def commands_in(effects: tuple[Effect, ...]) -> list[messages.DestroyVcpu]:
    return [message for message in sent(effects) if isinstance(message, messages.DestroyVcpu)]


def requests_in(effects: tuple[Effect, ...]) -> list[tuple[str, int, tuple[int, ...]]]:
    """The requests that were posted: type, generation, recipients."""
    return [
        (message.type, message.generation, message.recipients)
        for message in sent(effects)
        if isinstance(message, messages.REQUEST_TYPES)
    ]


class ManagerBench(Stepper[ManagerState]):
    """A manager; `running()` makes one whose VM is created."""

    def __init__(self) -> None:
        super().__init__(VmManager())

    @classmethod
    def running(cls, scenario: Scenario = QUIET) -> "ManagerBench":
        bench = cls()
        bench.command(create(scenario))
        for vcpu in range(scenario.vcpus):
            bench.reply(placed(vcpu))
        return bench

    @property
    def vm(self) -> Vm:
        return self.state.vms["vm-0"]

    def command(self, message: Message, reply_to: str | None = CLIENT) -> tuple[Effect, ...]:
        return self.step(Received(COMMANDS, message, message.identity(), 0, reply_to))

    def reply(self, message: Message, reply_to: str | None = WORKER) -> tuple[Effect, ...]:
        return self.step(Received(REPLIES, message, message.identity(), 0, reply_to))

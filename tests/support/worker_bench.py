"""A worker with one vCPU, and short words for what is sent to it."""

from typing import Any

from support.cores import Stepper
from vcpu_worker import VcpuWorker, WorkerState
from vcpu_worker.vcpu import Vcpu
from vm_protocol import messages, topology
from vm_protocol.effects import Ack, Effect, Publish, Reject
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message
from vm_protocol.ordering import WorkerStep
from vm_protocol.topology import Mailbox

COMMANDS = "worker.w.commands"
REPLIES = "worker.w.replies"
PLACEMENT = "vcpu.placement"
MANAGER = "manager.replies"
MAILBOX = Mailbox("vm-0", 0)
ROOTS = (("root-0", "previous0-0"), ())


def placement(vcpu: int = 0, **fields: object) -> messages.PlaceVcpu:
    shape = {
        "contexts": ROOTS,
        "async_pf": 0,
        "nested": False,
        "avic": False,
        "in_guest": False,
        "fence_ms": 500,
    }
    return messages.PlaceVcpu.model_validate({"vm": "vm-0", "vcpu": vcpu, **shape, **fields})


def placement_answer(vcpu: int = 0, *, accepted: bool = True) -> messages.PlacementAnswered:
    return messages.PlacementAnswered(vm="vm-0", vcpu=vcpu, worker="w", accepted=accepted)


def command(
    *steps: WorkerStep, step: str = "3.0", generation: int = 0, fence: bool = True
) -> messages.DestroyVcpu:
    return messages.DestroyVcpu(
        vm="vm-0", vcpu=0, step=step, steps=steps, generation=generation, fence=fence
    )


def flush(generation: int) -> messages.TlbFlush:
    return messages.TlbFlush(vm="vm-0", generation=generation, recipients=(0,))


def unload_done(generation: int = 0, position: int = 0, step: str = "3.0") -> messages.UnloadDone:
    return messages.UnloadDone(
        vm="vm-0", vcpu=0, step=step, position=position, generation=generation
    )


def zap_done(roots_left: int, attempt: int = 1, position: int = 0) -> messages.ZapDone:
    return messages.ZapDone(
        vm="vm-0", vcpu=0, step="3.0", position=position, attempt=attempt, roots_left=roots_left
    )


def to_manager(message: Message, of: Message, reply_to: str | None = None) -> Publish:
    return Publish(
        topology.REPLIES.name,
        MANAGER,
        message,
        mandatory=True,
        reply_to=reply_to,
        correlation_id=of.identity(),
    )


def answered(of: messages.DestroyVcpu, outcome: str = "done") -> list[Effect]:
    """The answer to a command, and the ack or reject that goes with it."""
    done = messages.VcpuStepsDone.model_validate(
        {"vm": "vm-0", "vcpu": 0, "step": of.step, "outcome": outcome}
    )
    return [to_manager(done, of), Ack(COMMANDS, of.identity())]


def rejected(
    of: messages.DestroyVcpu, reason: RejectReason, outcome: str = "refused"
) -> list[Effect]:
    answer, _ = answered(of, outcome)
    return [answer, Reject(COMMANDS, of.identity(), reason)]


class WorkerBench(Stepper[WorkerState]):
    """A started worker that owns vCPU 0 of vm-0."""

    def __init__(self, capacity: int = 4, **shape: Any) -> None:
        super().__init__(VcpuWorker("w", capacity))
        self.take(placement(**shape), PLACEMENT, MANAGER)
        self.take(placement_answer(), REPLIES)

    @property
    def vcpu(self) -> Vcpu:
        return self.state.vcpus[MAILBOX]

    def command(self, message: messages.DestroyVcpu) -> tuple[Effect, ...]:
        return self.take(message, COMMANDS, MANAGER)

    def request(self, message: Message) -> tuple[Effect, ...]:
        return self.take(message, MAILBOX.name)

    def reply(self, message: Message) -> tuple[Effect, ...]:
        return self.take(message, REPLIES)

    def freed(self, generation: int = 0) -> None:
        """Consume requests up to a generation, then free the vCPU in a command of its own."""
        for number in range(1, generation + 1):
            self.request(flush(number))
        self.command(command("free_vcpu", step="9.0", generation=generation))
        assert self.vcpu.freed

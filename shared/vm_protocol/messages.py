"""The wire's messages: frozen pydantic models, one discriminated union."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from vm_protocol import limits
from vm_protocol.message_base import Ordinal, VmMessage
from vm_protocol.ordering import FlushWaitSetting, Ordering, WorkerStep
from vm_protocol.scenario import Milliseconds, Scenario

Index = Annotated[int, Field(ge=0, lt=limits.VCPUS_MAX)]
Generation = Annotated[int, Field(ge=0, le=limits.COUNT_MAX)]
RootId = Annotated[str, Field(max_length=limits.NAME_CHARACTERS_MAX)]
Roots = Annotated[tuple[RootId, ...], Field(max_length=limits.ROOTS_OF_CONTEXT_MAX)]
WorkerId = Annotated[str, Field(max_length=limits.NAME_CHARACTERS_MAX)]
WaitFor = Annotated[tuple[Index, ...], Field(max_length=limits.VCPUS_MAX)]
StepPath = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?$", max_length=12)]
"""Place of a step in its ordering: "3" is the fourth step, "3.0" the first part of its loop."""


# --- client to manager, and back ---------------------------------------------------------


class CreateVm(VmMessage):
    """Create a VM: declare and bind its mailboxes, have its vCPUs placed on workers."""

    type: Literal["CreateVm"] = "CreateVm"
    id_form: ClassVar[str] = "{scope}/create-vm"
    scenario: Scenario


class VmCreated(VmMessage):
    """Every vCPU of the VM is placed; `workers` are the ids of those that own them."""

    type: Literal["VmCreated"] = "VmCreated"
    id_form: ClassVar[str] = "{scope}/vm-created"
    workers: Annotated[tuple[WorkerId, ...], Field(max_length=limits.VCPUS_MAX)]


class DestroyVm(VmMessage):
    """Tear the VM down in the given order; answered by `VmDestroyed`."""

    type: Literal["DestroyVm"] = "DestroyVm"
    id_form: ClassVar[str] = "{scope}/destroy-vm"
    ordering: Ordering


class VmDestroyed(VmMessage):
    """The teardown ended: the VM is freed, or a step that cannot end has stopped it."""

    type: Literal["VmDestroyed"] = "VmDestroyed"
    id_form: ClassVar[str] = "{scope}/vm-destroyed"
    outcome: Literal["freed", "stuck"]


class RemoveVm(VmMessage):
    """Remove what a VM still has on the broker and in the services, without any teardown."""

    type: Literal["RemoveVm"] = "RemoveVm"
    id_form: ClassVar[str] = "{scope}/remove-vm"


class VmRemoved(VmMessage):
    """Answer to `RemoveVm`: the VM is forgotten, the deletion of its mailboxes has begun."""

    type: Literal["VmRemoved"] = "VmRemoved"
    id_form: ClassVar[str] = "{scope}/vm-removed"


RefusalCode = Literal[
    "vm-already-exists",
    "vm-not-found",
    "vm-not-ready",
    "vm-limit-reached",
    "teardown-running",
    "no-places",
    "too-much-work",
    "connections-lost",
    "host-lost",
]


class Refused(VmMessage):
    """The manager refuses a command, definitely: nothing of it was done.

    `why` says what the code leaves open, and the way out: the places that were free, the step that
    costs too much. After `host-lost` the VM is gone: a worker with some of its vCPUs was lost while
    it was created. `connections-lost` is the exception: lost connections brought the command to its
    delivery limit twice and the monitor has given it up; the VM is to be removed.
    """

    type: Literal["Refused"] = "Refused"
    id_form: ClassVar[str] = "{command}/refused/{code}"
    code: RefusalCode
    command: Annotated[str, Field(max_length=200)]
    why: Annotated[str, Field(max_length=limits.WHY_CHARACTERS_MAX)] = ""


# --- placement -----------------------------------------------------------------------------


class _VcpuMessage(VmMessage):
    vcpu: Index


class PlaceVcpu(_VcpuMessage):
    """Own this vCPU: its roots by MMU context (current first), its nested and guest state."""

    type: Literal["PlaceVcpu"] = "PlaceVcpu"
    id_form: ClassVar[str] = "{scope}/place-vcpu/{vcpu}"
    contexts: tuple[Roots, Roots]
    async_pf: Annotated[int, Field(ge=0, le=limits.FAULTS_MAX)]
    nested: bool
    avic: bool
    in_guest: bool
    fence_ms: Milliseconds


class VcpuPlaced(_VcpuMessage):
    """A worker has taken a placement; the manager answers whether the vCPU is this worker's.

    `places` is how many live vCPUs the worker can have in all; 0 if it does not say.
    """

    type: Literal["VcpuPlaced"] = "VcpuPlaced"
    id_form: ClassVar[str] = "{scope}/vcpu-placed/{vcpu}/{worker}"
    worker: WorkerId
    places: Annotated[int, Field(ge=0, le=limits.VCPUS_MAX)] = 0


class PlacementAnswered(_VcpuMessage):
    """The manager's answer to `VcpuPlaced`: own the vCPU, or forget it.

    A placement whose acknowledgement is lost with a connection is delivered again, and then two
    workers have taken it; only the one that is accepted consumes the mailbox.
    """

    type: Literal["PlacementAnswered"] = "PlacementAnswered"
    id_form: ClassVar[str] = "{scope}/placement-answered/{vcpu}/{worker}"
    worker: Annotated[str, Field(max_length=limits.NAME_CHARACTERS_MAX)]
    accepted: bool


class _WorkerMessage(VmMessage):
    worker: WorkerId


class WorkerAlive(_WorkerMessage):
    """A worker that holds vCPUs of this VM is alive; `number` makes each such message a new one.

    The manager takes any message of a worker about a VM for a sign of life; this one comes where
    there is nothing else to say.
    """

    type: Literal["WorkerAlive"] = "WorkerAlive"
    id_form: ClassVar[str] = "{scope}/worker-alive/{worker}/{number}"
    number: Ordinal


class WorkerLeaving(_WorkerMessage):
    """A worker is about to end: whatever of this VM is not being torn down counts as lost."""

    type: Literal["WorkerLeaving"] = "WorkerLeaving"
    id_form: ClassVar[str] = "{scope}/worker-leaving/{worker}"


# --- commands to a vCPU, and what its worker answers ------------------------------------------


class DestroyVcpu(_VcpuMessage):
    """Run neighbouring steps of one vCPU's destruction; KVM: `kvm_vcpu_destroy()`.

    `generation` is the newest request routed to this vCPU's mailbox when the command was sent: a
    free waits until the mailbox is consumed that far, unless `fence` is off.
    """

    type: Literal["DestroyVcpu"] = "DestroyVcpu"
    id_form: ClassVar[str] = "{scope}/destroy-vcpu/{vcpu}/{step}"
    step: StepPath
    steps: Annotated[tuple[WorkerStep, ...], Field(min_length=1, max_length=limits.STEPS_MAX)]
    generation: Generation
    fence: bool


class VcpuStepsDone(_VcpuMessage):
    """The worker's answer to `DestroyVcpu`: done, refused on a freed vCPU, or stuck."""

    type: Literal["VcpuStepsDone"] = "VcpuStepsDone"
    id_form: ClassVar[str] = "{scope}/vcpu-steps-done/{vcpu}/{step}/{outcome}"
    step: StepPath
    outcome: Literal["done", "refused", "stuck"]


class RootsReleased(_VcpuMessage):
    """The worker forgot its roots; the manager drops the pins. KVM: `kvm_mmu_free_roots()`.

    `position` is the index of the step in its command; `contexts` are the released roots by MMU
    context.
    """

    type: Literal["RootsReleased"] = "RootsReleased"
    id_form: ClassVar[str] = "{scope}/roots-released/{vcpu}/{step}/{position}"
    step: StepPath
    position: Index
    contexts: tuple[Roots, Roots]


class UnloadDone(_VcpuMessage):
    """The pins are dropped and the flush, if one was due, is posted.

    `generation` is the newest request routed to this vCPU's mailbox by then.
    """

    type: Literal["UnloadDone"] = "UnloadDone"
    id_form: ClassVar[str] = "{scope}/unload-done/{vcpu}/{step}/{position}"
    step: StepPath
    position: Index
    generation: Generation


class ZapRequested(_VcpuMessage):
    """The 2007 loop: drop this vCPU's pins and free every root without pins."""

    type: Literal["ZapRequested"] = "ZapRequested"
    id_form: ClassVar[str] = "{scope}/zap-requested/{vcpu}/{step}/{position}/{attempt}"
    step: StepPath
    position: Index
    attempt: Ordinal
    contexts: tuple[Roots, Roots]


class ZapDone(_VcpuMessage):
    """Answer to `ZapRequested`: how many roots are still on the VM's list."""

    type: Literal["ZapDone"] = "ZapDone"
    id_form: ClassVar[str] = "{scope}/zap-done/{vcpu}/{step}/{position}/{attempt}"
    step: StepPath
    position: Index
    attempt: Ordinal
    roots_left: Annotated[int, Field(ge=0, le=limits.COUNT_MAX)]


class VmStateRead(_VcpuMessage):
    """A vCPU's step touches VM-level state; a manager that has freed it rejects this.

    KVM: `svm_leave_nested()` reads the irqchip and the MSR filter; `avic_vcpu_load()` writes the
    vendor's physical id table.
    """

    type: Literal["VmStateRead"] = "VmStateRead"
    id_form: ClassVar[str] = "{scope}/vm-state-read/{vcpu}/{step}/{position}/{state}"
    step: StepPath
    position: Index
    state: Literal["irqchip", "vendor"]


class AsyncPfCompleted(_VcpuMessage):
    """An async page fault completes and writes into the vCPU. KVM: `async_pf_execute()`."""

    type: Literal["AsyncPfCompleted"] = "AsyncPfCompleted"
    id_form: ClassVar[str] = "{scope}/async-pf-completed/{vcpu}/{fault}"
    fault: Annotated[int, Field(ge=0, lt=limits.FAULTS_MAX)]


class RequestAcked(_VcpuMessage):
    """A vCPU that is waited for has taken a flush; one in guest has left it. KVM: the IPI's ack."""

    type: Literal["RequestAcked"] = "RequestAcked"
    id_form: ClassVar[str] = "{scope}/request-acked/{generation}/{vcpu}"
    generation: Ordinal


class CommandStuck(_VcpuMessage):
    """The monitor tells the manager that a command reached its delivery limit.

    It got there by rejects, or by lost connections. In the second case the monitor first sends the
    command once more, and tells the manager only when it dies again.
    """

    type: Literal["CommandStuck"] = "CommandStuck"
    id_form: ClassVar[str] = "{scope}/command-stuck/{vcpu}/{step}"
    step: StepPath
    why: Literal["rejects", "connections-lost"] = "rejects"


# --- requests: what the manager posts to all visible vCPUs ------------------------------------


class _Request(VmMessage):
    generation: Ordinal
    recipients: Annotated[tuple[Index, ...], Field(min_length=1, max_length=limits.VCPUS_MAX)]

    id_form: ClassVar[str] = "{scope}/request/{generation}"


class TlbFlush(_Request):
    """Flush the TLB. KVM: `KVM_REQ_TLB_FLUSH`, `kvm_flush_remote_tlbs()`.

    The manager waits for `RequestAcked` of those in `wait_for`: KVM waits for the IPI of vCPUs in
    guest mode, which the processor acknowledges whatever became of the vCPU; with `flush_wait: all`
    each visible vCPU has to answer itself.
    """

    type: Literal["TlbFlush"] = "TlbFlush"
    wait_for: WaitFor = ()
    flush_wait: FlushWaitSetting = "in_guest"


class DropObsoleteRoots(_Request):
    """Drop roots that zap-all made invalid. KVM: `KVM_REQ_MMU_FREE_OBSOLETE_ROOTS`."""

    type: Literal["DropObsoleteRoots"] = "DropObsoleteRoots"
    root: RootId


class ScanIoapic(_Request):
    """Scan the IOAPIC, posted as the PIT is freed. KVM: `KVM_REQ_SCAN_IOAPIC`.

    It has KVM_REQUEST_WAIT: the manager waits for `RequestAcked` of the vCPUs in guest mode.
    """

    type: Literal["ScanIoapic"] = "ScanIoapic"
    wait_for: WaitFor = ()


class ClockUpdate(_Request):
    """Update the clock, posted by the ticker. KVM: `KVM_REQ_CLOCK_UPDATE`."""

    type: Literal["ClockUpdate"] = "ClockUpdate"


Request = TlbFlush | DropObsoleteRoots | ScanIoapic | ClockUpdate

Message = (
    CreateVm
    | VmCreated
    | DestroyVm
    | VmDestroyed
    | RemoveVm
    | VmRemoved
    | Refused
    | PlaceVcpu
    | VcpuPlaced
    | PlacementAnswered
    | WorkerAlive
    | WorkerLeaving
    | DestroyVcpu
    | VcpuStepsDone
    | RootsReleased
    | UnloadDone
    | ZapRequested
    | ZapDone
    | VmStateRead
    | AsyncPfCompleted
    | RequestAcked
    | CommandStuck
    | Request
)

MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])
"""Validates any message; use `vm_protocol.codec`, which also bounds its size."""

TLB_FLUSH = "tlb-flush"
DROP_OBSOLETE_ROOTS = "drop-obsolete-roots"
SCAN_IOAPIC = "scan-ioapic"
CLOCK_UPDATE = "clock-update"

REQUEST_KINDS: dict[str, str] = {
    "TlbFlush": TLB_FLUSH,
    "DropObsoleteRoots": DROP_OBSOLETE_ROOTS,
    "ScanIoapic": SCAN_IOAPIC,
    "ClockUpdate": CLOCK_UPDATE,
}
"""Message type -> the kind's label in history, metrics and reports."""

SIGNS_OF_LIFE = ("WorkerAlive",)
"""Message types that say that somebody lives, and nothing else: they move nothing."""

REQUEST_TYPES = (TlbFlush, DropObsoleteRoots, ScanIoapic, ClockUpdate)
REQUEST_TYPE_NAMES = tuple(kind.__name__ for kind in REQUEST_TYPES)

"""One message of each type, with every field away from its default: for the golden files."""

from vm_protocol import messages
from vm_protocol.messages import Message
from vm_protocol.ordering import ForEachVcpu, Kernel, Loop, Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Envelope

_VM = {"vm": "vm-7", "incarnation": 2}
_VCPU = {**_VM, "vcpu": 3}
_PLACE = {**_VCPU, "step": "2.1", "position": 1}
_REQUEST = {**_VM, "generation": 5, "recipients": (0, 1, 3)}
_CONTEXTS = (("root-3", "previous0-3"), ("nested-3",))

SCENARIO = Scenario(
    vcpus=5,
    mmu="tdp",
    roots="mixed",
    previous_roots=1,
    async_pf=2,
    ticker=False,
    avic=True,
    nested=(3,),
    in_guest=(0,),
    seed=9,
    ticker_ms=10,
    fence_ms=900,
    request_ms=800,
    quarantine_ms=700,
)

ORDERING = Ordering(
    name="every-field",
    title="Every field of an ordering",
    kernel=Kernel(versions="v6.15 ..", commit="e447212593a0"),
    flush_wait="all",
    fence=False,
    array="stop-at-hole",
    steps=(
        "zap_all_roots",
        ForEachVcpu(
            for_each_vcpu=Loop(
                order="descending", parallel=2, steps=("unload_mmu", "free_vcpu", "erase_vcpu")
            )
        ),
        ForEachVcpu(for_each_vcpu=Loop(parallel="all", steps=("leave_nested",))),
        "uninit_mmu",
    ),
)


def _sample(kind: type[Message], fields: dict[str, object]) -> tuple[str, Message]:
    return kind.__name__, kind.model_validate(fields)


SAMPLES: dict[str, Message] = dict(
    (
        _sample(messages.CreateVm, {**_VM, "scenario": SCENARIO}),
        _sample(messages.VmCreated, {**_VM, "workers": ("worker-1", "worker-2")}),
        _sample(messages.DestroyVm, {**_VM, "ordering": ORDERING}),
        _sample(messages.VmDestroyed, {**_VM, "outcome": "stuck"}),
        _sample(messages.RemoveVm, {**_VM}),
        _sample(messages.VmRemoved, {**_VM}),
        _sample(
            messages.Refused,
            {
                **_VM,
                "code": "no-places",
                "command": "vm-7.2/create-vm",
                "why": "9 vCPUs want a place each, and 4 were free",
            },
        ),
        _sample(
            messages.PlaceVcpu,
            {
                **_VCPU,
                "contexts": _CONTEXTS,
                "async_pf": 2,
                "nested": True,
                "avic": True,
                "in_guest": False,
                "fence_ms": 900,
            },
        ),
        _sample(messages.VcpuPlaced, {**_VCPU, "worker": "worker-1", "places": 8}),
        _sample(messages.WorkerAlive, {**_VM, "worker": "worker-1", "number": 4}),
        _sample(messages.WorkerLeaving, {**_VM, "worker": "worker-1"}),
        _sample(messages.PlacementAnswered, {**_VCPU, "worker": "worker-1", "accepted": True}),
        _sample(
            messages.DestroyVcpu,
            {
                **_VCPU,
                "step": "2.1",
                "steps": ("clear_async_pf", "unload_mmu", "free_vcpu"),
                "generation": 4,
                "fence": True,
            },
        ),
        _sample(messages.VcpuStepsDone, {**_VCPU, "step": "2.1", "outcome": "refused"}),
        _sample(messages.RootsReleased, {**_PLACE, "contexts": _CONTEXTS}),
        _sample(messages.UnloadDone, {**_PLACE, "generation": 6}),
        _sample(messages.ZapRequested, {**_PLACE, "attempt": 3, "contexts": _CONTEXTS}),
        _sample(messages.ZapDone, {**_PLACE, "attempt": 3, "roots_left": 2}),
        _sample(messages.VmStateRead, {**_PLACE, "state": "vendor"}),
        _sample(messages.AsyncPfCompleted, {**_VCPU, "fault": 1}),
        _sample(messages.RequestAcked, {**_VCPU, "generation": 5}),
        _sample(messages.CommandStuck, {**_VCPU, "step": "2.1", "why": "connections-lost"}),
        _sample(messages.TlbFlush, {**_REQUEST, "wait_for": (1,), "flush_wait": "all"}),
        _sample(messages.DropObsoleteRoots, {**_REQUEST, "root": "root-3"}),
        _sample(messages.ScanIoapic, {**_REQUEST, "wait_for": (1,)}),
        _sample(messages.ClockUpdate, {**_REQUEST}),
    )
)


def sample_envelope(message: Message) -> Envelope:
    """Return an envelope in which every field is set."""
    return Envelope(
        message_id=message.identity(),
        correlation_id="vm-7.2/destroy-vm",
        reply_to="manager.replies",
        caused_by="vm-7.2/destroy-vm",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        sender="manager.1",
        lamport=41,
        epoch=1,
        user_id="manager",
    )

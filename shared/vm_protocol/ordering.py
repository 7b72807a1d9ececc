"""The ordering of a teardown, as data: which step comes when.

What a step does stands in the services; how text becomes an
ordering, with line numbers in its errors, stands in `vm_manager.catalogue`.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vm_protocol import limits

VmStep = Literal[
    "stop_background_workers",
    "zap_all_roots",
    "flush_tlbs",
    "free_irqchip",
    "vendor_vm_destroy",
    "uninit_mmu",
]
WorkerStep = Literal[
    "leave_nested",
    "load_vcpu",
    "put_vcpu",
    "clear_async_pf",
    "unload_mmu",
    "zap_all_until_empty",
    "free_vcpu",
]
FlushWaitSetting = Literal["in_guest", "all"]
"""For whom a flush waits: vCPUs in their guest, as KVM does, or every visible vCPU."""

VcpuStep = Literal[WorkerStep, "erase_vcpu"]

VM_STEPS: tuple[str, ...] = get_args(VmStep)
WORKER_STEPS: tuple[str, ...] = get_args(WorkerStep)
VCPU_STEPS: tuple[str, ...] = (*WORKER_STEPS, "erase_vcpu")
LOOP = "for_each_vcpu"

Name = Annotated[
    str,
    Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=limits.NAME_CHARACTERS_MAX),
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Loop(_Frozen):
    """A pass over the vCPU array; `parallel` bodies are in flight at once, `all` = no bound."""

    order: Literal["ascending", "descending"] = "ascending"
    parallel: Annotated[int, Field(ge=1, le=limits.VCPUS_MAX)] | Literal["all"] = 1
    steps: Annotated[tuple[VcpuStep, ...], Field(min_length=1, max_length=limits.STEPS_MAX)]


class ForEachVcpu(_Frozen):
    """`for_each_vcpu`, always spelled out; in YAML a bare list of steps means the default loop."""

    for_each_vcpu: Loop


class Kernel(_Frozen):
    """Where an ordering comes from: kernel versions, and the commit that made it."""

    versions: Annotated[str, Field(max_length=100)]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{12,40}$")] | None = None


class Ordering(_Frozen):
    """One ordering of a VM's teardown.

    `lines` is where its steps stood in the YAML that it was read from, from 1: one line for each
    step in the order of the file, those of a loop one by one; () where it was not read from any. It
    is no part of what an ordering means: two that differ in it alone are equal, and it does not
    travel in messages. A run writes it down in `run.started`.
    """

    name: Name
    title: Annotated[str, Field(max_length=200)] = ""
    kernel: Kernel | None = None
    flush_wait: FlushWaitSetting = "in_guest"
    fence: bool = True
    array: Literal["skip-holes", "stop-at-hole"] = "skip-holes"
    steps: Annotated[
        tuple[VmStep | ForEachVcpu, ...], Field(min_length=1, max_length=limits.STEPS_MAX)
    ]

    lines: Annotated[
        tuple[Annotated[int, Field(ge=1, le=limits.ORDERING_FILE_CHARACTERS_MAX)], ...],
        Field(exclude=True, max_length=limits.STEPS_MAX),
    ] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ordering) and self._meaning() == other._meaning()

    def __hash__(self) -> int:
        return self._meaning().__hash__()

    def _meaning(self) -> tuple[object, ...]:
        kernel, waits = self.kernel, (self.flush_wait, self.fence, self.array)
        return self.name, self.title, kernel, waits, self.steps

    @model_validator(mode="after")
    def _steps_are_bounded(self) -> Self:
        loops = [step.for_each_vcpu for step in self.steps if isinstance(step, ForEachVcpu)]
        count = len(self.steps) + sum(len(loop.steps) for loop in loops)
        if count > limits.STEPS_MAX:
            raise ValueError(f"{count} steps, loops included; {limits.STEPS_MAX} are allowed")
        return self

"""The scenario of a run: what the VM looks like when its teardown begins."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from vm_protocol import limits

Mmu = Literal["shadow", "tdp"]
RootSharing = Literal["distinct", "shared", "mixed"]
Milliseconds = Annotated[int, Field(ge=1, le=600_000)]
VcpuIndices = Annotated[tuple[int, ...], Field(max_length=limits.VCPUS_MAX)]


class Scenario(BaseModel):
    """A VM's shape and timing; each default is the plainest VM that shows a flush.

    `nested` and `in_guest` hold vCPU indices; `*_ms` are milliseconds; `async_pf` counts pending
    async page faults of each vCPU; `previous_roots` counts cached roots in the first MMU context.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    vcpus: Annotated[int, Field(ge=1, le=limits.VCPUS_MAX)] = 4
    mmu: Mmu = "shadow"
    roots: RootSharing = "distinct"
    previous_roots: Annotated[int, Field(ge=0, le=3)] = 0
    async_pf: Annotated[int, Field(ge=0, le=limits.FAULTS_MAX)] = 0
    ticker: bool = True
    avic: bool = False
    nested: VcpuIndices = ()
    in_guest: VcpuIndices = ()
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    ticker_ms: Milliseconds = limits.TICKER_MS
    fence_ms: Milliseconds = limits.FENCE_MS
    request_ms: Milliseconds = limits.REQUEST_MS
    quarantine_ms: Milliseconds = limits.QUARANTINE_MS

    @field_validator("nested", "in_guest")
    @classmethod
    def _indices_exist(cls, indices: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        vcpus = info.data.get("vcpus", limits.VCPUS_MAX)
        for index in indices:
            if not 0 <= index < vcpus:
                raise ValueError(f"there is no vCPU {index} (0..{vcpus - 1})")
        return indices


SHADOW: Mmu = "shadow"
TDP: Mmu = "tdp"


def root_contexts(
    scenario: Scenario, vcpu: int
) -> tuple[tuple[tuple[str, Mmu], ...], tuple[tuple[str, Mmu], ...]]:
    """Return the roots that a vCPU pins, for each of its two MMU contexts.

    Each entry is (root id, mmu); the first of a context is the current root, the others are its
    cached previous roots, and each slot is one pin. Only a nested vCPU under TDP uses the second
    context: one shadow root of its own.
    """
    owner = {"distinct": str(vcpu), "shared": "all", "mixed": f"pair{vcpu // 2}"}[scenario.roots]
    current = (f"root-{owner}", scenario.mmu)
    previous = tuple(
        (f"previous{slot}-{owner}", scenario.mmu) for slot in range(scenario.previous_roots)
    )
    nested: tuple[tuple[str, Mmu], ...] = ()
    if scenario.mmu == TDP and vcpu in scenario.nested:
        nested = ((f"nested-{vcpu}", SHADOW),)
    return (current, *previous), nested

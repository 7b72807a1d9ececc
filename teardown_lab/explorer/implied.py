"""What an exploration must have seen: witnesses that ordering, scenario and faults imply; pure.

An exploration that never saw a flush reach a live vCPU proves nothing about flushes. Steps behind
one that always gets stuck cannot be seen, and are no gap in the proof.
"""

from dataclasses import dataclass

from teardown_lab.explorer.findings import FLUSHED_LIVE, OVERLAPPED, UNLOAD_FLUSHED
from teardown_lab.explorer.schedule import Schedule
from teardown_lab.explorer.strategy import Explored
from vm_protocol.invariants import Invariant
from vm_protocol.ordering import WORKER_STEPS, ForEachVcpu, Ordering
from vm_protocol.scenario import Scenario, root_contexts


@dataclass(frozen=True, slots=True)
class Unseen:
    """Required witnesses that nobody has seen, and in words those that nothing could show."""

    missing: tuple[str, ...] = ()
    out_of_reach: tuple[str, ...] = ()


def unseen(schedule: Schedule, explored: Explored) -> Unseen:
    """Return which witnesses a complete exploration lacks."""
    furthest = max(explored.reached, default=-1)
    is_stuck = any(invariant == Invariant.STUCK for invariant, _, _ in explored.paths)
    missing = set(schedule.faults.as_dict()) - explored.witnessed
    out_of_reach: list[str] = []
    for name, position in _implied(schedule.ordering, schedule.scenario):
        if name in explored.witnessed:
            continue
        if is_stuck and furthest < position:
            out_of_reach.append(
                f"{name} cannot be seen: step {position + 1} of the ordering is never reached, "
                f"as step {furthest + 1} always gets stuck"
            )
        else:
            missing.add(name)
    return Unseen(tuple(sorted(missing)), tuple(out_of_reach))


def _implied(ordering: Ordering, scenario: Scenario) -> list[tuple[str, int]]:
    """Return the implied witnesses, each with the position of the step that brings it."""
    found: list[tuple[str, int]] = []
    flushing = _flushing_step(ordering, scenario)
    if flushing is not None:
        found += [(FLUSHED_LIVE, flushing), (UNLOAD_FLUSHED, flushing)]
    overlapping = _overlapping_step(ordering, scenario)
    if overlapping is not None:
        found.append((OVERLAPPED, overlapping))
    return found


def _flushing_step(ordering: Ordering, scenario: Scenario) -> int | None:
    """Return where some unload must flush somebody: zap-all first, then unload, nobody hidden."""
    if ordering.array == "stop-at-hole":
        return None
    kinds = {
        mmu for v in range(scenario.vcpus) for each in root_contexts(scenario, v) for _, mmu in each
    }
    if "shadow" not in kinds:
        return None
    zapped = False
    for position, step in enumerate(ordering.steps):
        if step == "zap_all_roots":
            zapped = True
        elif isinstance(step, ForEachVcpu):
            steps = step.for_each_vcpu.steps
            stops = ("erase_vcpu", "zap_all_until_empty", "free_vcpu")
            before = [index for index, name in enumerate(steps) if name in stops]
            unload = steps.index("unload_mmu") if "unload_mmu" in steps else len(steps)
            if unload < min([*before, len(steps)]):
                return position if zapped else None
            if before:
                return None
        elif step == "uninit_mmu":
            return None
    return None


def _overlapping_step(ordering: Ordering, scenario: Scenario) -> int | None:
    """Return where two vCPUs' commands must be able to run at once."""
    for position, step in enumerate(ordering.steps):
        is_parallel = isinstance(step, ForEachVcpu) and step.for_each_vcpu.parallel != 1
        if isinstance(step, ForEachVcpu) and is_parallel:
            has_command = any(name in WORKER_STEPS for name in step.for_each_vcpu.steps)
            if has_command:
                return position if scenario.vcpus > 1 else None
    return None

"""Explorations in tests: short ways to make one, and what two of them are compared by."""

from dataclasses import dataclass
from typing import Any

from teardown_lab.checker.judgement import Judgement
from teardown_lab.explorer import breadth_first
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.schedule import Schedule
from teardown_lab.explorer.strategy import Bounds, Explored
from teardown_lab.explorer.verdict import ExplorerVerdict, conclude
from vm_manager.catalogue import catalogue_entry
from vm_protocol.ordering import ForEachVcpu, Loop, Ordering
from vm_protocol.scenario import Scenario

Kind = tuple[str, int]
"""An invariant and its vCPU, -1 for none."""

ONE_TICK = Budget(ticks=1)
WHOLE = Bounds()


def loop(*steps: str, **shape: Any) -> ForEachVcpu:
    return ForEachVcpu(for_each_vcpu=Loop.model_validate({"steps": steps, **shape}))


def ordering(*steps: str | ForEachVcpu, **fields: Any) -> Ordering:
    return Ordering.model_validate({"name": "own", "steps": steps, **fields})


def shipped(name: str, **changes: Any) -> Ordering:
    return catalogue_entry(name).ordering.model_copy(update=changes)


def schedule(
    order: Ordering | str, scenario: Scenario | int = 2, faults: Budget = ONE_TICK
) -> Schedule:
    """Return an empty schedule; a number stands for that many vCPUs."""
    of = shipped(order) if isinstance(order, str) else order
    shape = Scenario(vcpus=scenario) if isinstance(scenario, int) else scenario
    return Schedule(of, shape, faults, ())


def explored(begin: Schedule, bounds: Bounds = WHOLE) -> Explored:
    return breadth_first.explore(begin.model(), bounds, lambda *_: None)


def unreduced(begin: Schedule, states_max: int = WHOLE.states_max) -> Explored:
    return explored(begin, Bounds(states_max, reduce=False))


@dataclass(frozen=True)
class Answer:
    """An exploration and what it amounts to."""

    explored: Explored
    verdict: ExplorerVerdict


def answer(begin: Schedule, bounds: Bounds = WHOLE) -> Answer:
    found = explored(begin, bounds)
    return Answer(found, conclude(begin, found))


def found_kinds(exploration: Explored) -> set[Kind]:
    return {(invariant, vcpu) for invariant, vcpu, _ in exploration.paths}


def judged_kinds(judgement: Judgement) -> set[Kind]:
    return {
        (str(each.invariant), -1 if each.vcpu is None else each.vcpu)
        for each in judgement.violations
    }

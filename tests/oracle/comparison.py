"""The product's word on a case, in the oracle's terms, and where the two differ."""

from collections import Counter
from dataclasses import fields
from typing import Any

from oracle.oracle import Expectation
from support.simulated import Run, run

from teardown_lab.checker.judgement import Judgement
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

Plain = dict[str, Any]
TUPLES = ("nested", "in_guest")


def as_ordering(plain: Plain) -> Ordering:
    """Return the product's ordering; a bare list of steps is the plain loop."""
    steps: list[Any] = []
    for step in plain["steps"]:
        if isinstance(step, str):
            steps.append(step)
            continue
        loop = step["for_each_vcpu"]
        shape = {"steps": loop} if isinstance(loop, list) else loop
        steps.append({"for_each_vcpu": {**shape, "steps": tuple(shape["steps"])}})
    return Ordering.model_validate({**plain, "steps": tuple(steps)})


def as_scenario(plain: Plain) -> Scenario:
    return Scenario.model_validate(
        {name: tuple(value) if name in TUPLES else value for name, value in plain.items()}
    )


def in_memory(ordering: Plain, scenario: Plain) -> Run:
    """Run a case on the simulated broker; two workers, so that messages have two ways."""
    return run(as_ordering(ordering), as_scenario(scenario), workers=2)


def product(ordering: Plain, scenario: Plain) -> Judgement:
    """Return what the product says about a case."""
    return in_memory(ordering, scenario).judgement


def told(judgement: Judgement) -> Expectation:
    """Return a judgement in the oracle's terms."""
    counts = judgement.counts
    return Expectation(
        violations=Counter((str(each.invariant), each.vcpu) for each in judgement.violations),
        hazards=Counter((str(each.hazard), each.vcpu) for each in judgement.hazards),
        dead_letters=Counter(
            (letter.reason, letter.vcpu, str(letter.invariant)) for letter in judgement.dead_letters
        ),
        commands=counts.commands,
        flush_broadcasts=counts.flush_broadcasts,
        flush_deliveries=counts.flush_deliveries,
        flush_acks=counts.flush_acks,
        unload_flush_requests=counts.unload_flush_requests,
    )


def differences(wanted: Expectation, judgement: Judgement) -> list[str]:
    """Return in words where a judgement is not what the oracle foretells; empty if nowhere."""
    said = told(judgement)
    lines = [
        f"{field.name}: the oracle says {_plain(ours)}, the product {_plain(theirs)}"
        for field in fields(Expectation)
        if field.name != "racy"
        and (ours := +getattr(wanted, field.name)) != (theirs := +getattr(said, field.name))
    ]
    if judgement.verdict != wanted.verdict:
        lines.append(f"verdict: the oracle says {wanted.verdict}, the product {judgement.verdict}")
    if judgement.counts.unaccounted:
        lines.append(f"unaccounted: {judgement.counts.unaccounted}")
    return lines + [f"note: {note}" for note in judgement.notes]


def _plain(value: Any) -> str:
    return str(dict(value)) if isinstance(value, Counter) else str(value)

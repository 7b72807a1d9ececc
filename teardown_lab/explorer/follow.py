"""Replay in the model: follow given choices, and say what they break."""

from teardown_lab.explorer.choice import split_choice
from teardown_lab.explorer.findings import Finding
from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.strategy import Path


class NotEnabled(Exception):
    """A choice of the schedule cannot be made there: it is another ordering's or scenario's."""


def follow(model: Model, path: Path) -> tuple[list[State], list[Finding]]:
    """Return the states along a path, the initial one first, and its findings in order.

    Raises:
        NotEnabled: Names the step at which the path cannot go on.
    """
    states = [model.initial()]
    findings: list[Finding] = []
    for number, choice in enumerate(path):
        if choice not in model.choices(states[-1]):
            kind, index = split_choice(choice).kind, split_choice(choice).index
            raise NotEnabled(f"step {number + 1}: choice {kind}:{index} is not possible there")
        after, found = model.apply(states[-1], choice)
        states.append(after)
        findings += found
    return states, findings

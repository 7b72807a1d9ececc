"""Whether the steps that ran are those of the ordering, each once, and in which commands.

A freed VM has taken every step of its ordering: a step that is not in the history is missing from
it. Read in a lab's own file only.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts, Life
from vm_protocol.message_ids import scope_of
from vm_protocol.messages import DestroyVcpu
from vm_protocol.observations import Event
from vm_protocol.ordering import ForEachVcpu, Ordering

StepPlace = tuple[str, int | None]
"""(path of the step, vCPU)."""

_ERASE = "erase_vcpu"


def notes(facts: Facts) -> Iterator[str]:
    """Yield where steps and commands differ from the ordering."""
    if not facts.run.is_lab_file or facts.life.teardown_started is None:
        return
    said = shapes.mapping(facts.life.teardown_started.record, "ordering")
    ordering = read(said)
    if ordering is None:
        yield "the ordering is none: a field is missing, of another type, or unknown"
        return
    asked = (
        shapes.mapping(facts.messages.sent[each].record, "body").get("ordering")
        for each in facts.messages.of_type("DestroyVm")
    )
    if any(each != said for each in asked):
        yield "the ordering that was taken up is not the one that was asked for"
        return
    run = facts.run.started
    if run is not None and shapes.text(run, "ordering") != ordering.name:
        yield "the run names another ordering than the one that was taken up"
    yield from _steps(facts, ordering)


def read(said: object) -> Ordering | None:
    """Return an ordering as the services read it, None when it is none."""
    try:
        return Ordering.model_validate_json(json.dumps(said))
    except ValidationError:
        return None


def _steps(facts: Facts, ordering: Ordering) -> Iterator[str]:
    wanted = dict(_wanted(ordering, facts.vcpus()))
    begun, ended = _said(facts)
    for place, strange in begun.items():
        if place not in wanted:
            yield f"{', '.join(strange)} began at {_at(place)}, where the ordering has no step"
    begin = facts.life.teardown_started
    begun_by = (begin.record.caused_by or "") if begin else ""
    for place, names in wanted.items():
        path, vcpu = place
        if vcpu in facts.hosts.vcpus:
            continue  # nobody was left to take its steps, or to end them
        found = begun.get(place, [])
        if names[0] == _ERASE or vcpu is None:
            whole = found == list(names) == ended.get(place, [])
            if not (whole or _may_lack(facts.life, found, names)):
                yield f"{names[0]} at {_at(place)} began {len(found)} times in the history"
            continue
        command = DestroyVcpu.id_of(scope_of(begun_by), vcpu=vcpu, step=path)
        yield from _command(facts, command, names, found, fence=ordering.fence)
        answer = facts.messages.answers.get(command)
        is_over = answer is not None and answer.outcome != "stuck"
        if is_over and ended.get(place, []) != found:
            yield f"{command} was answered, but not all of its steps ended"


def _command(
    facts: Facts, command: str, names: Sequence[str], found: Sequence[str], *, fence: bool
) -> Iterator[str]:
    answer = facts.messages.answers.get(command)
    if command not in facts.messages.sent:
        if facts.life.freed is not None or answer is not None:
            yield f"{command} is a command of the ordering, but was not sent in the history"
        return
    if shapes.mapping(facts.messages.sent[command].record, "body").get("fence") is not fence:
        yield f"{command} has a fence where the ordering has none, or none"
    if facts.messages.body(command).texts("steps") != tuple(names):
        yield f"{command} has other steps than the ordering"
    done = answer is not None and answer.outcome == "done"
    begun_in_order = list(found) == list(names[: len(found)])
    if not begun_in_order or (done and len(found) != len(names)):
        yield f"{command} began {', '.join(found) or 'no step'} instead of {', '.join(names)}"
    if answer is not None and answer.outcome == "refused" and len(found) == len(names):
        yield f"{command} was refused, but all of its steps began"


def _may_lack(life: Life, found: Sequence[str], names: Sequence[str]) -> bool:
    """Tell whether a step may be open or not begun: the teardown did not come to its end."""
    return life.freed is None and list(found) in ([], list(names))


def _wanted(
    ordering: Ordering, vcpus: Sequence[int]
) -> Iterator[tuple[StepPlace, tuple[str, ...]]]:
    for position, step in enumerate(ordering.steps):
        if not isinstance(step, ForEachVcpu):
            yield (str(position), None), (step,)
            continue
        for number, part in enumerate(parts(step.for_each_vcpu.steps)):
            for vcpu in vcpus:
                yield (f"{position}.{number}", vcpu), part


def parts(steps: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return a loop's body as neighbouring steps of workers, and erases one by one."""
    found: list[tuple[str, ...]] = []
    for step in steps:
        if step == _ERASE or not found or found[-1] == (_ERASE,):
            found.append((step,))
        else:
            found[-1] = (*found[-1], step)
    return tuple(found)


def _said(facts: Facts) -> tuple[dict[StepPlace, list[str]], dict[StepPlace, list[str]]]:
    begun: dict[StepPlace, list[str]] = defaultdict(list)
    ended: dict[StepPlace, list[str]] = defaultdict(list)
    for moment in facts.moments:
        record = moment.record
        if record.event in (Event.STEP_STARTED, Event.STEP_FINISHED):
            into = begun if record.event is Event.STEP_STARTED else ended
            into[record.step or "", record.vcpu].append(shapes.text(record, "name"))
    return begun, ended


def _at(place: StepPlace) -> str:
    path, vcpu = place
    return f"step {path}" + (f" of vCPU {vcpu}" if vcpu is not None else "")

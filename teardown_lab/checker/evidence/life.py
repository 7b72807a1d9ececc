"""Whether a lab file's VM began as its scenario says, and ended as its client was answered."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts, Messages
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario, root_contexts
from vm_protocol.topology import parse_mailbox
from vm_protocol.wire import Record

_OUTCOMES: Final = ("settled", "timed-out", "timed-out-alive", "lost", "interrupted", "refused")


def notes(facts: Facts) -> Iterator[str]:
    """Yield where beginning and end of the VM differ from what was asked for and answered."""
    if not facts.run.is_lab_file:
        return
    yield from _scenarios(facts)
    scenario = facts.scenario_read()
    if scenario is not None and facts.life.created:
        yield from _placements(facts.messages, scenario)
        yield from _vcpus(facts, scenario)
    yield from _end(facts)


def _scenarios(facts: Facts) -> Iterator[str]:
    """Yield where one of those who say what the VM is says something else."""
    asked = (
        shapes.mapping(facts.messages.sent[each].record, "body").get("scenario")
        for each in facts.messages.of_type("CreateVm")
    )
    made = (shapes.mapping(each.record, "scenario") for each in facts.life.created)
    own = _text(facts.scenario())
    for who, said in (*(("CreateVm", s) for s in asked), *(("vm.created", s) for s in made)):
        if _text(said) != own:
            yield f"the scenario of {who} is not that of run.started"


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _placements(messages: Messages, scenario: Scenario) -> Iterator[str]:
    for message_id, sent in messages.sent.items():
        if messages.types[message_id] == "PlaceVcpu":
            body = shapes.mapping(sent.record, "body")
            vcpu = messages.vcpu_of[message_id] or 0
            wanted = {
                "contexts": [[name for name, _ in each] for each in root_contexts(scenario, vcpu)],
                "async_pf": scenario.async_pf,
                "nested": vcpu in scenario.nested,
                "avic": scenario.avic,
                "in_guest": vcpu in scenario.in_guest,
                "fence_ms": scenario.fence_ms,
            }
            for name, value in wanted.items():
                if _text(body.get(name)) != _text(value):
                    yield f"{message_id} places another vCPU than the scenario's ({name})"


def _vcpus(facts: Facts, scenario: Scenario) -> Iterator[str]:
    times: Counter[tuple[Event, int | None]] = Counter()
    for moment in facts.moments:
        record = moment.record
        times[record.event, record.vcpu] += 1
        if record.event is Event.VCPU_VISIBLE:
            mailbox = parse_mailbox(shapes.text(record, "mailbox"))
            if mailbox is None or mailbox.vcpu != record.vcpu or mailbox.vm != facts.vm:
                yield f"vcpu.visible of vCPU {record.vcpu} names the mailbox of another"
        elif record.event is Event.VCPU_CREATED and not _was_accepted(facts.messages, record):
            yield f"vcpu.created of vCPU {record.vcpu}: no placement of it was accepted"
        elif record.event is Event.GUEST_ENTERED and not _is_own_tlb(record, scenario):
            yield f"guest.entered of vCPU {record.vcpu} holds other pages than its roots map"
    for vcpu in range(scenario.vcpus):
        if times[Event.VCPU_VISIBLE, vcpu] != 1:
            yield f"vCPU {vcpu} became visible {times[Event.VCPU_VISIBLE, vcpu]} times"
        if not times[Event.VCPU_CREATED, vcpu]:
            yield f"vCPU {vcpu} was never created in the history"
        entered = times[Event.GUEST_ENTERED, vcpu] > 0
        if entered != (vcpu in scenario.in_guest):
            yield f"vCPU {vcpu} begins in its guest or outside, but guest.entered says otherwise"


def _was_accepted(messages: Messages, record: Record) -> bool:
    answer = record.caused_by or ""
    said = messages.sent.get(answer)
    if said is None:
        return True
    body = shapes.mapping(said.record, "body")
    return body.get("vcpu") == record.vcpu and body.get("accepted") is True


def _is_own_tlb(record: Record, scenario: Scenario) -> bool:
    if record.vcpu is None or record.vcpu >= scenario.vcpus:
        return False
    roots = {name for held in root_contexts(scenario, record.vcpu) for name, _ in held}
    return sorted(shapes.texts(record, "pages") or ()) == sorted(roots)


def _end(facts: Facts) -> Iterator[str]:
    messages = facts.messages
    told = {messages.body(each).text("outcome") for each in messages.of_type("VmDestroyed")}
    if told and (facts.life.freed is not None) != ("freed" in told):
        yield f"the client was told {', '.join(sorted(told))}, but vm.freed says otherwise"
    if facts.run.finished is None:
        yield "run.finished is not in the history: its end is missing"
    elif facts.run.outcome not in _OUTCOMES:
        yield f"run.finished has an unknown outcome, {facts.run.outcome!r}"
    if facts.life.teardown_started is None and facts.steps.by_actor:
        yield "teardown.started is not in the history, but steps began"

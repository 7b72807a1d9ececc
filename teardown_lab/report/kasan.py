"""The report of a use-after-free in the shape of KASAN's, with messages for stack frames.

Each line of a chain is a message and the kernel function that it stands for. The chains are
walked in the history by the checker; what the monitor found is not read.
"""

from collections.abc import Iterator
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.chains import allocating_chain, chain, freeing_chain
from teardown_lab.checker.explain import call, function_of
from teardown_lab.checker.facts import Facts, Messages
from teardown_lab.checker.findings import Violation
from teardown_lab.checker.judgement import Judgement
from teardown_lab.checker.kernel_names import STEP_FUNCTIONS
from vm_protocol.invariants import Invariant
from vm_protocol.topology import Mailbox

RULE: Final = "=" * 66
CHAIN_LINES_MAX: Final = 8
"""Lines of one chain; a longer one keeps its newest and its last, which began it all."""

_KINDS: Final = {
    Invariant.USE_AFTER_FREE: "slab-use-after-free",
    Invariant.DOUBLE_FREE: "double-free",
}


def kasan_report(
    judgement: Judgement,
    facts: Facts,
    reports_max: int | None = None,
    *,
    whole_chains: bool = False,
) -> str:
    """Return one report for each use-after-free and double free of a vCPU, "" when there is none.

    With `reports_max`, a last line tells how many were left out; `whole_chains` leaves out none of
    their messages.
    """
    accesses = [
        each for each in judgement.violations if each.invariant in _KINDS and each.vcpu is not None
    ]
    lines: list[str] = []
    shown = accesses if reports_max is None else accesses[:reports_max]
    for violation in shown:
        report = _report(facts, violation, None if whole_chains else CHAIN_LINES_MAX)
        lines += [RULE, *report, RULE, ""]
    if len(shown) < len(accesses):
        count = len(accesses) - len(shown)
        noun = "report" if count == 1 else "reports"
        lines.append(f"... {count} more {noun}; --verbose shows them all ...\n")
    return "\n".join(lines)


def _report(facts: Facts, violation: Violation, lines_max: int | None) -> Iterator[str]:
    message_id, vcpu = violation.message_id, violation.vcpu
    kind = _KINDS[violation.invariant]
    function = _access(facts, violation)
    yield f"BUG: KASAN: {kind} in {function}"
    yield f"{_verb(violation)} vCPU {vcpu} of VM {facts.vm} by {_what(facts.messages, message_id)}"
    yield ""
    yield "Used by:"
    yield from _chain(
        facts, chain(facts.messages, message_id), lines_max, _raised(facts, message_id)
    )
    yield ""
    yield "Freed by:"
    freed = freeing_chain(facts, vcpu or 0)
    yield from _chain(facts, freed, lines_max, _freed(facts, vcpu or 0))
    yield ""
    yield "Allocated by:"
    yield from _chain(facts, allocating_chain(facts, vcpu or 0), lines_max)
    yield ""
    yield f"The buggy address belongs to the object of struct kvm_vcpu, vCPU {vcpu},"
    yield f" mailbox {_mailbox(facts, message_id, vcpu or 0)}"


def _verb(violation: Violation) -> str:
    return "Free of" if violation.invariant is Invariant.DOUBLE_FREE else "Write to"


def _access(facts: Facts, violation: Violation) -> str:
    """Return the function that touched freed memory: the message's, or that of its step."""
    message_id = violation.message_id
    if violation.invariant is Invariant.DOUBLE_FREE:
        return STEP_FUNCTIONS["free_vcpu"]
    if message_id is None:
        return "?"
    for step in facts.steps.by_workers:
        late = facts.memory.freed_before(step.vcpu, step.moment) is not None
        if step.command == message_id and step.vcpu == violation.vcpu and late:
            return STEP_FUNCTIONS[step.name]
    steps = facts.messages.body(message_id).texts("steps")
    if steps and steps[0] != "free_vcpu" and _came_late(facts, violation):
        return STEP_FUNCTIONS.get(steps[0], steps[0])
    return function_of(facts.messages, message_id)


def _came_late(facts: Facts, violation: Violation) -> bool:
    arrival = facts.deliveries.arrivals.get((violation.message_id or "", violation.vcpu))
    return arrival is not None and facts.memory.freed_before(violation.vcpu, arrival) is not None


def _what(messages: Messages, message_id: str | None) -> str:
    if message_id is None:
        return "an unnamed message"
    return f"{messages.types.get(message_id, 'message')} {message_id}"


def _raised(facts: Facts, message_id: str | None) -> str | None:
    """Return a first line that says who raised a request."""
    if message_id is None or message_id not in facts.requests.post_of:
        return None
    return f" {call(facts, message_id).rstrip(',')}"


def _freed(facts: Facts, vcpu: int) -> str | None:
    frees = facts.memory.freed.get(vcpu)
    if not frees:
        return None
    actor = facts.name_of(frees[0].moment.record.actor)
    return f" {STEP_FUNCTIONS['free_vcpu']:<28} free_vcpu of vCPU {vcpu} by {actor}"


def _chain(
    facts: Facts, messages: tuple[str, ...], lines_max: int | None, first: str | None = None
) -> Iterator[str]:
    if first is not None:
        yield first
    if not messages and first is None:
        yield " (not in the history)"
    shown = messages
    if lines_max is not None and len(messages) > lines_max:
        shown = messages[: lines_max - 2]
    for message_id in shown:
        yield _line(facts, message_id)
    if shown is not messages:
        yield f" ... {len(messages) - len(shown) - 1} messages more (--verbose) ..."
        yield _line(facts, messages[-1])


def _line(facts: Facts, message_id: str) -> str:
    messages = facts.messages
    sent = messages.sent.get(message_id)
    sender = f" by {facts.name_of(sent.record.actor)}" if sent else ""
    name = messages.types.get(message_id, "?")
    return f" {function_of(messages, message_id):<28} {name} {message_id}{sender}"


def _mailbox(facts: Facts, message_id: str | None, vcpu: int) -> str:
    arrival = facts.deliveries.in_mailboxes.get((message_id or "", vcpu))
    queue = shapes.text(arrival.record, "queue") if arrival else ""
    visible = facts.array.visible.get(vcpu)
    bound = shapes.text(visible.record, "mailbox") if visible else ""
    return queue or bound or Mailbox(facts.vm, vcpu).name

"""Chains of messages: which message was caused by which, back to the client's command.

Walked in the history by `caused_by`; what the monitor found is not read. A chain ends at a client's
command: why a client sends it is no reason for what a service does. So what used or freed something
goes back to DestroyVm, what allocated it to CreateVm.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from teardown_lab.checker.explain import function_of
from teardown_lab.checker.facts import FROM_CLIENTS, Facts, Messages
from teardown_lab.checker.findings import Evidence, Link, Violation
from vm_protocol.invariants import Invariant

_OF_A_VCPU = frozenset(
    {
        Invariant.USE_AFTER_FREE,
        Invariant.DOUBLE_FREE,
        Invariant.VISIBLE_AFTER_ERASE,
        Invariant.LOST_REQUEST,
    }
)
"""What is about the memory of a vCPU, which was allocated, and may have been freed, by messages."""


def chain(messages: Messages, message_id: str | None) -> tuple[str, ...]:
    """Return a message and those that led to it, newest first."""
    found: list[str] = []
    while message_id is not None and message_id not in found:
        found.append(message_id)
        sent = messages.sent.get(message_id)
        is_last = messages.types.get(message_id) in FROM_CLIENTS
        message_id = sent.record.caused_by if sent and not is_last else None
    return tuple(found)


def freeing_chain(facts: Facts, vcpu: int) -> tuple[str, ...]:
    """Return the chain of the command that first freed a vCPU."""
    frees = facts.memory.freed.get(vcpu)
    return chain(facts.messages, frees[0].command) if frees else ()


def allocating_chain(facts: Facts, vcpu: int) -> tuple[str, ...]:
    """Return the chain of the message that created a vCPU."""
    return chain(facts.messages, _allocation(facts, vcpu))


def _allocation(facts: Facts, vcpu: int) -> str | None:
    created = facts.memory.created.get(vcpu)
    if created is not None and created.record.caused_by is not None:
        return created.record.caused_by
    placed = (
        message_id
        for message_id, name in facts.messages.types.items()
        if name == "PlaceVcpu" and facts.messages.vcpu_of.get(message_id) == vcpu
    )
    return next(placed, None)


def with_evidence(facts: Facts, violations: Iterable[Violation]) -> Iterator[Violation]:
    """Yield the violations with the newest messages of their chains."""
    allocations: dict[int, str | None] = {}
    for violation in violations:
        vcpu, freed, allocated = violation.vcpu, None, None
        if violation.invariant in _OF_A_VCPU and vcpu is not None:
            frees = facts.memory.freed.get(vcpu)
            freed = frees[0].command if frees else None
            if vcpu not in allocations:
                allocations[vcpu] = _allocation(facts, vcpu)
            allocated = allocations[vcpu]
        elif violation.invariant is Invariant.VM_STATE_USED_AFTER_FREE:
            state = facts.messages.body(violation.message_id or "").text("state")
            moment = facts.vm_state.freed.get(state)
            freed = moment.record.caused_by if moment else None
        evidence = Evidence(violation.message_id, freed, allocated)
        yield replace(violation, evidence=evidence)


def links(facts: Facts, violations: Iterable[Violation]) -> dict[str, Link]:
    """Return every message of every chain of the violations, with what caused it."""
    found: dict[str, Link] = {}
    for violation in violations:
        for head in (
            violation.evidence.used_by,
            violation.evidence.freed_by,
            violation.evidence.allocated_by,
        ):
            message_id = head
            while message_id is not None and message_id not in found:
                link = _link(facts.messages, message_id)
                found[message_id] = link
                message_id = link.caused_by
    return found


def _link(messages: Messages, message_id: str) -> Link:
    sent, name = messages.sent.get(message_id), messages.types.get(message_id, "")
    cause = sent.record.caused_by if sent and name not in FROM_CLIENTS else None
    return Link(name, function_of(messages, message_id), sent.record.actor if sent else "", cause)

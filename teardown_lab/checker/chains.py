"""Chains of messages: which message was caused by which, back to the client's command.

Walked in the history by `caused_by`; what the monitor found is not read.
"""

from teardown_lab.checker.facts import Facts


def chain(facts: Facts, message_id: str | None) -> tuple[str, ...]:
    """Return a message and those that led to it, newest first."""
    found: list[str] = []
    while message_id is not None and message_id not in found:
        found.append(message_id)
        sent = facts.sent.get(message_id)
        message_id = sent.record.caused_by if sent else None
    return tuple(found)


def freeing_chain(facts: Facts, vcpu: int) -> tuple[str, ...]:
    """Return the chain of the command that first freed a vCPU."""
    frees = facts.freed.get(vcpu)
    return chain(facts, frees[0].command) if frees else ()


def allocating_chain(facts: Facts, vcpu: int) -> tuple[str, ...]:
    """Return the chain of the message that created a vCPU."""
    created = facts.created.get(vcpu)
    if created is not None and created.record.caused_by is not None:
        return chain(facts, created.record.caused_by)
    placed = (
        message_id
        for message_id, name in facts.types.items()
        if name == "PlaceVcpu" and facts.vcpu_of.get(message_id) == vcpu
    )
    return chain(facts, next(placed, None))

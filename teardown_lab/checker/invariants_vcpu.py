"""What may not happen to a vCPU: use-after-free, double-free, visible-after-erase.

At most one violation per (message, vCPU), by the message's first arrival. Judged from what
arrived and when, not from what the service answered: a tombstone that acknowledges is no alibi.
"""

from collections.abc import Iterator
from typing import Final

from teardown_lab.checker import explain, shapes
from teardown_lab.checker.facts import DeliveryFacts, DeliveryId, Facts, Freeing, StepBegun
from teardown_lab.checker.findings import Found, Violation
from teardown_lab.checker.happens_before import Moment, before
from vm_protocol.errors import RejectReason
from vm_protocol.invariants import Invariant

ACCESS_REASONS: Final = frozenset(
    {RejectReason.FREED, RejectReason.DOUBLE_FREE, RejectReason.VM_STATE_FREED}
)
"""Rejects that claim an access; any other reject means that the service did nothing with it."""

_FREE_STEP: Final = "free_vcpu"


def vcpu_accesses(facts: Facts) -> Iterator[Found]:
    """Yield accesses to freed vCPUs and to erased ones."""
    # Several sources may see one access; the first that does words it, so their order matters.
    found: dict[DeliveryId, Found] = {}
    for source in (_requests, _unrecorded, _completions, _commands, _refusals, _second_frees):
        for delivery, violation in source(facts):
            found.setdefault(delivery, violation)
    for delivery, violation in _reached_after_erase(facts):
        found.setdefault(delivery, violation)
    yield from found.values()
    yield from _shown_after_erase(facts)


def refused_otherwise(deliveries: DeliveryFacts, delivery: DeliveryId) -> bool:
    """Return whether a delivery was rejected for what has nothing to do with the vCPU's state."""
    moment = deliveries.rejected.get(delivery)
    return moment is not None and shapes.text(moment.record, "reason") not in ACCESS_REASONS


def _free_before(facts: Facts, delivery: DeliveryId, arrival: Moment) -> Freeing | None:
    """Return the free that came before a delivery; None where its first arrival is not known.

    What was sent after the free came after it, whenever it was.
    """
    free = facts.memory.freed_before(delivery[1], arrival)
    sent = facts.messages.sent.get(delivery[0])
    if free is None or not facts.deliveries.is_seen_again(delivery, arrival):
        return free
    return free if sent is not None and before(free.moment, sent) else None


def _requests(facts: Facts) -> Iterator[tuple[DeliveryId, Found]]:
    for delivery, arrival in facts.deliveries.in_mailboxes.items():
        message_id = delivery[0]
        free = _free_before(facts, delivery, arrival)
        if free is None or refused_otherwise(facts.deliveries, delivery):
            continue
        text = explain.request_after_free(facts, message_id, arrival, free)
        yield delivery, _found(arrival, Invariant.USE_AFTER_FREE, delivery, text)


def _unrecorded(facts: Facts) -> Iterator[tuple[DeliveryId, Found]]:
    """Yield requests sent after a free that somebody rejected, as their dead letter tells."""
    for letter in facts.deliveries.letters:
        delivery = facts.messages.delivery(letter.record)
        message_id, vcpu = delivery
        sent = facts.messages.sent.get(message_id)
        known = delivery in facts.deliveries.in_mailboxes or delivery in facts.deliveries.rejected
        rejected = shapes.text(letter.record, "reason") == "rejected"
        if sent is None or known or not rejected or not facts.messages.is_request(message_id):
            continue
        free = facts.memory.freed_before(vcpu, sent)
        if free is not None:
            text = explain.expired_after_free(facts, message_id, letter, free)
            yield delivery, _found(sent, Invariant.USE_AFTER_FREE, delivery, text)


def _completions(facts: Facts) -> Iterator[tuple[DeliveryId, Found]]:
    for delivery, arrival in facts.deliveries.arrivals.items():
        message_id = delivery[0]
        if facts.messages.types.get(message_id) != "AsyncPfCompleted":
            continue
        free = _free_before(facts, delivery, arrival)
        if free is None or refused_otherwise(facts.deliveries, delivery):
            continue
        text = explain.completion_after_free(facts.messages, message_id, free)
        yield delivery, _found(arrival, Invariant.USE_AFTER_FREE, delivery, text)


def _commands(facts: Facts) -> Iterator[tuple[DeliveryId, Found]]:
    """Yield steps on freed vCPUs: a command that arrives late, or one that goes on after a free.

    Three witnesses, the first that speaks is believed: the first arrival (its first step is the
    offender), the begun step, the reject.
    """
    for delivery, arrival in facts.deliveries.arrivals.items():
        message_id = delivery[0]
        if facts.messages.types.get(message_id) != "DestroyVcpu":
            continue
        free = _free_before(facts, delivery, arrival)
        if free is not None and not refused_otherwise(facts.deliveries, delivery):
            steps = facts.messages.body(message_id).texts("steps")
            name = steps[0] if steps else _step_by_reject(facts.deliveries, delivery)
            yield delivery, _on_freed(delivery, arrival, name, free)
    for step in facts.steps.by_workers:
        free = facts.memory.freed_before(step.vcpu, step.moment)
        if free is not None:
            yield _key(step), _on_freed(_key(step), step.moment, step.name, free)
    for delivery, moment in facts.deliveries.rejected.items():
        free = facts.memory.freed_before(delivery[1], moment)
        claims = shapes.text(moment.record, "reason") in ACCESS_REASONS
        if free is not None and claims and facts.messages.types.get(delivery[0]) == "DestroyVcpu":
            name = _step_by_reject(facts.deliveries, delivery)
            yield delivery, _on_freed(delivery, moment, name, free)


def _refusals(facts: Facts) -> Iterator[tuple[DeliveryId, Found]]:
    """Yield the steps at which workers refused a command, as their answer tells.

    A worker begins its steps in order, so that the first one not begun is the one refused.
    """
    for message_id, answer in facts.messages.answers.items():
        if answer.outcome != "refused":
            continue
        vcpu = facts.messages.vcpu_of.get(message_id)
        steps = facts.messages.body(message_id).texts("steps")
        begun = sum(1 for each in facts.steps.by_workers if each.command == message_id)
        free = facts.memory.freed_before(vcpu, answer.sent)
        if free is not None and begun < len(steps):
            delivery = (message_id, vcpu)
            yield delivery, _on_freed(delivery, answer.sent, steps[begun], free)


def _key(step: StepBegun) -> DeliveryId:
    return (step.command or f"step {step.moment.record.step}", step.vcpu)


def _step_by_reject(deliveries: DeliveryFacts, delivery: DeliveryId) -> str:
    moment = deliveries.rejected.get(delivery)
    reason = shapes.text(moment.record, "reason") if moment else ""
    return _FREE_STEP if reason == RejectReason.DOUBLE_FREE else ""


def _on_freed(delivery: DeliveryId, moment: Moment, name: str, free: Freeing) -> Found:
    command = delivery[0] if not delivery[0].startswith("step ") else None
    if name == _FREE_STEP:
        text = explain.double_free(delivery[1], command, free.command)
        return _found(moment, Invariant.DOUBLE_FREE, (command, delivery[1]), text)
    text = explain.step_after_free(name, command, free)
    return _found(moment, Invariant.USE_AFTER_FREE, (command, delivery[1]), text)


def _second_frees(facts: Facts) -> Iterator[tuple[DeliveryId, Found]]:
    for vcpu, frees in facts.memory.freed.items():
        for again in frees[1:]:
            delivery = (again.command or f"step {again.moment.record.step}", vcpu)
            text = explain.double_free(vcpu, again.command, frees[0].command)
            key = (again.command, vcpu)
            yield delivery, _found(again.moment, Invariant.DOUBLE_FREE, key, text)


def _reached_after_erase(facts: Facts) -> Iterator[tuple[DeliveryId, Found]]:
    """Yield requests that were sent after a vCPU's erase and yet count it in or reach it."""
    for post in facts.requests.posts:
        message_id = post.record.message_id
        said = shapes.numbers(post.record, "recipients")
        for vcpu in sorted(facts.reached(post).intersection(said)):
            erased = facts.array.erased.get(vcpu)
            if erased is not None and before(erased, post):
                text = explain.visible_after_erase(facts, message_id, vcpu, "recipient")
                counted: DeliveryId = (message_id or f"post {post.index}", vcpu)
                shown = (message_id, vcpu)
                yield counted, _found(post, Invariant.VISIBLE_AFTER_ERASE, shown, text)
    for delivery, arrival in facts.deliveries.in_mailboxes.items():
        message_id, reached = delivery
        erased = facts.array.erased.get(reached) if reached is not None else None
        sent = facts.requests.post_of.get(message_id) or facts.messages.sent.get(message_id)
        if erased is None or sent is None or not facts.messages.is_request(message_id):
            continue
        if before(erased, sent) and reached is not None:
            text = explain.visible_after_erase(facts, message_id, reached, "reached")
            yield delivery, _found(arrival, Invariant.VISIBLE_AFTER_ERASE, delivery, text)


def _shown_after_erase(facts: Facts) -> Iterator[Found]:
    for shown in facts.array.shown_again:
        vcpu = shown.record.vcpu
        if vcpu is not None and before(facts.array.erased[vcpu], shown):
            text = explain.visible_after_erase(facts, None, vcpu, "shown")
            key = (shown.record.caused_by, vcpu)
            yield _found(shown, Invariant.VISIBLE_AFTER_ERASE, key, text)


def _found(
    moment: Moment, invariant: Invariant, key: tuple[str | None, int | None], text: str
) -> Found:
    return Found(moment.position, Violation(invariant, key[1], key[0], text))

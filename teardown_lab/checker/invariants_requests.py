"""What may not happen to a request: lost-request, and the letters that leave a mailbox unread.

A request is lost for a vCPU that was visible before, is neither freed (by happens-before) nor
erased at the post, and is not among the recipients. One that expires, or finds its mailbox full,
was routed to its vCPU: the worker was slow, or gone, and the ordering is not at fault.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from teardown_lab.checker import explain, shapes
from teardown_lab.checker.facts import Facts, Messages
from teardown_lab.checker.findings import Found, Violation
from teardown_lab.checker.happens_before import Moment, before
from vm_protocol.invariants import Invariant

UNREAD: Final = ("expired", "maxlen")
"""Reasons of dead letters that no consumer decided."""


def lost_posts(facts: Facts) -> Iterator[tuple[Moment, Found]]:
    """Yield, with its post, each vCPU that a request missed.

    A vCPU that took the request did not miss it, whatever its recipients say. The id is the
    request's; if it was not published, that of the message whose handling raised it.
    """
    for post in facts.requests.posts:
        for vcpu in sorted(
            (facts.array.visible.keys() | facts.memory.created.keys()) - facts.reached(post)
        ):
            came = (post.record.message_id, vcpu) in facts.deliveries.in_mailboxes
            if not came and _should_get(facts, post, vcpu):
                message_id = post.record.message_id or post.record.caused_by
                text = explain.lost_post(facts, post, vcpu)
                violation = Violation(Invariant.LOST_REQUEST, vcpu, message_id, text)
                yield post, Found(post.position, violation)


def lost_flushes(
    facts: Facts, owed: Iterable[tuple[Moment, str]]
) -> Iterator[tuple[Moment, Found]]:
    """Yield, with the unload that owed it, each vCPU that a flush never raised has missed."""
    for begun, message_id in owed:
        for vcpu in sorted(facts.array.visible.keys() | facts.memory.created.keys()):
            if _should_get(facts, begun, vcpu):
                text = explain.owed_flush(facts.messages, message_id, vcpu)
                violation = Violation(Invariant.LOST_REQUEST, vcpu, message_id, text)
                yield begun, Found(begun.position, violation)


def _should_get(facts: Facts, post: Moment, vcpu: int) -> bool:
    shown = facts.array.visible.get(vcpu) or facts.memory.created[vcpu]
    if not before(shown, post):
        return False
    erased = facts.array.erased.get(vcpu)
    # The loss of a host takes its vCPUs out before it raises anything.
    if erased is not None and (erased is post or before(erased, post)):
        return False
    # To miss a freed vCPU is right: to reach it would be the violation.
    return facts.memory.freed_before(vcpu, post) is None


def unread_letter(facts: Facts, letter: Moment) -> Found | None:
    """Return a use-after-free if a request that nobody took was posted to a freed vCPU.

    The freed vCPU's worker may have ended before it could take the request. If the free happened
    before the sending, posting it was itself the use-after-free.
    """
    message_id, vcpu = facts.messages.delivery(letter.record)
    unread = shapes.text(letter.record, "reason") in UNREAD
    if not unread or vcpu is None or not facts.messages.is_request(message_id):
        return None
    if explain.mailbox_vcpu(shapes.text(letter.record, "queue")) is None:
        return None
    frees = facts.memory.freed.get(vcpu, ())
    sent = facts.messages.sent.get(message_id)
    if frees and sent is not None and before(frees[0].moment, sent):
        text = explain.expired_after_free(facts, message_id, letter, frees[0])
        violation = Violation(Invariant.USE_AFTER_FREE, vcpu, message_id, text)
        return Found(sent.position, violation)
    return None


def was_alive(facts: Facts, message_id: str, vcpu: int) -> bool:
    """Return whether a vCPU certainly lived when a request left its mailbox unread.

    Either it was never freed, or a later request arrived before its free: a mailbox is a queue,
    so the unread one had left by then.
    """
    frees = facts.memory.freed.get(vcpu)
    if not frees:
        return True
    generation = facts.messages.body(message_id).number("generation")
    return generation is not None and any(
        before(arrival, frees[0].moment) and _is_later(facts.messages, later, generation)
        for (later, owner), arrival in facts.deliveries.in_mailboxes.items()
        if owner == vcpu
    )


def _is_later(messages: Messages, message_id: str, generation: int) -> bool:
    other = messages.body(message_id).number("generation")
    return other is not None and other > generation

"""Whether the post of a request agrees with what was published and with what arrived."""

from collections.abc import Iterator
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.evidence.bodies import strangers
from teardown_lab.checker.facts import DeliveryFacts, Facts
from teardown_lab.checker.happens_before import Moment
from teardown_lab.checker.shapes import some
from vm_protocol.errors import RejectReason
from vm_protocol.messages import REQUEST_KINDS
from vm_protocol.observations import Event

_TOUCHING: Final = ("AsyncPfCompleted", "DestroyVcpu")
"""What a worker takes from its own queues and does to a vCPU."""


def notes(facts: Facts) -> Iterator[str]:
    """Yield where posts, published bodies and deliveries of requests differ."""
    for post in facts.requests.posts:
        if post.record.message_id is not None:
            yield from _differs(facts, post)
        elif shapes.numbers(post.record, "recipients") and facts.has_messages:
            yield (
                f"request.posted of a {shapes.text(post.record, 'kind')} names recipients, "
                f"but no message"
            )
        elif facts.run.is_lab_file and shapes.number(post.record, "generation") != 0:
            yield f"request.posted of a {shapes.text(post.record, 'kind')} to nobody is numbered"
    for message_id in dict.fromkeys(facts.requests.posted_again):
        yield f"{message_id} was posted twice"
    yield from _seen_again(facts)
    unexpected = list(strangers(facts))
    if unexpected:
        yield some("{} delivered to a vCPU that is not among the recipients", unexpected)
    if facts.run.is_lab_file:
        yield from _routed(facts)
        yield from _raisers(facts)
        yield from _outcomes(facts.deliveries)


def lost(facts: Facts) -> Iterator[str]:
    """Yield that requests were posted of which nothing is recorded: a higher number is known.

    If all records of a request are lost, nobody knows whom it would have reached.
    """
    if not facts.run.is_lab_file:
        return
    messages = facts.messages
    known = {messages.body(each).number("generation") for each in messages.of_type(*REQUEST_KINDS)}
    known |= {shapes.number(post.record, "generation") for post in facts.requests.posts}
    found = {number for number in known if number}
    told = (
        messages.body(each).number("generation") or 0
        for each in messages.of_type("UnloadDone", "DestroyVcpu")
    )
    # Generations are numbered without gaps, so a number that is missing is a lost request.
    newest = max((*found, *told), default=0)
    count = newest - len(found)
    if count > 0:
        yield f"{count} of {newest} generations of requests not in the history"


def untold(facts: Facts) -> Iterator[str]:
    """Yield what a vCPU must have done after it took a request, where the history lacks it."""
    if not facts.run.is_lab_file:
        return
    messages = facts.messages
    acks = {
        (messages.body(each).number("generation"), messages.vcpu_of.get(each))
        for each in messages.of_type("RequestAcked")
    }
    for (message, vcpu), said in facts.deliveries.outcomes.items():
        if vcpu is None or "posted" not in said:
            continue
        if vcpu in facts.guests.entered and vcpu not in facts.guests.left:
            yield f"vCPU {vcpu} took {message} in its guest, but guest.left is not in the history"
        body = facts.messages.body(message)
        if vcpu in body.numbers("wait_for") and (body.number("generation"), vcpu) not in acks:
            yield f"vCPU {vcpu} took {message}, but its RequestAcked is not in the history"


def _differs(facts: Facts, post: Moment) -> Iterator[str]:
    record = post.record
    sent = facts.messages.sent.get(record.message_id or "")
    if sent is None:
        return
    body = shapes.body(sent.record)
    said = sorted(shapes.numbers(record, "recipients"))
    if said != sorted(body.numbers("recipients")):
        yield (
            f"request.posted of {record.message_id} names other recipients than the message that "
            f"was published"
        )
    if shapes.text(record, "kind") != facts.messages.kind(record.message_id or ""):
        yield f"request.posted calls {record.message_id} a {shapes.text(record, 'kind')}"
    if shapes.number(record, "generation") != body.number("generation") and facts.run.is_lab_file:
        yield f"request.posted of {record.message_id} names another generation than the message"
    # Both are records of the manager, so their numbers tell which of them came first.
    if sent.actor != post.actor or sent.index < post.index:
        yield f"request.posted of {record.message_id} stands behind its sending"


def _seen_again(facts: Facts) -> Iterator[str]:
    """Yield deliveries to freed vCPUs that were not the first, whose first is not known.

    Only of what touches a vCPU: an answer of its worker to the manager may come whenever it likes.
    """
    touching = {
        delivery: arrival
        for delivery, arrival in facts.deliveries.arrivals.items()
        if facts.messages.types.get(delivery[0]) in _TOUCHING
    }
    for arrivals in (facts.deliveries.in_mailboxes, touching):
        for delivery, arrival in arrivals.items():
            after = facts.memory.freed_before(delivery[1], arrival) is not None
            if after and facts.deliveries.is_seen_again(delivery, arrival):
                yield (
                    f"{delivery[0]} came to freed vCPU {delivery[1]} again: when it came first is "
                    f"not in the history"
                )


def _routed(facts: Facts) -> Iterator[str]:
    """Yield fences that are not the newest request routed to their vCPU's mailbox.

    The fence of an unload is fixed when the manager takes RootsReleased. If the answer waits for a
    flush and is sent later, requests posted in between do not change it.
    """
    routed: dict[int, int] = {}
    taken: dict[str, int] = {}
    for moment in facts.moments:
        record = moment.record
        if moment.actor != facts.manager():
            continue
        message = record.message_id or ""
        kind = facts.messages.types.get(message)
        if record.event is Event.MESSAGE_ACKED and kind == "RootsReleased":
            taken.setdefault(message, routed.get(facts.messages.vcpu_of.get(message) or 0, 0))
        if record.event is not Event.MESSAGE_SENT:
            continue
        body = shapes.body(record)
        if facts.messages.kind(message):
            generation = body.number("generation") or 0
            routed.update(dict.fromkeys(body.numbers("recipients"), generation))
        elif kind in ("DestroyVcpu", "UnloadDone"):
            newest = routed.get(body.number("vcpu") or 0, 0)
            released = message.replace("/unload-done/", "/roots-released/")
            if released not in (message, record.caused_by):  # what ended its wait sent it
                newest = taken.get(released, newest)
            if body.number("generation") != newest:
                yield f"{message} names another fence than the newest request before it, {newest}"


def _raisers(facts: Facts) -> Iterator[str]:
    """Yield posts that name another vCPU than the one whose unload raised them."""
    for post in facts.requests.posts:
        by_unload = shapes.text(post.record, "by") == "unload"
        cause = facts.messages.vcpu_of.get(post.record.caused_by or "") if by_unload else None
        if post.record.vcpu != cause:
            said = post.record.vcpu
            yield f"request.posted names vCPU {said}, but the unload of vCPU {cause} raised it"


def _outcomes(deliveries: DeliveryFacts) -> Iterator[str]:
    """Yield deliveries that a worker took without saying what became of them.

    A request is posted once; a tombstone rejects every copy of one.
    """
    for delivery, times in deliveries.taken.items():
        said = deliveries.outcomes.get(delivery, [])
        rejected = deliveries.rejected.get(delivery)
        wanted = "rejected" if rejected is not None else "posted"
        reason = shapes.text(rejected.record, "reason") if rejected else ""
        if reason and reason != RejectReason.FREED:
            continue
        again = said == ["rejected"] * len(said) and rejected is not None and len(said) <= times
        is_copy = not said and delivery in deliveries.duplicated
        if said != [wanted] and not (said and again) and not is_copy:
            what = ", ".join(said) or "nothing"
            yield f"request.delivered of {delivery[0]} to vCPU {delivery[1]} says {what}"

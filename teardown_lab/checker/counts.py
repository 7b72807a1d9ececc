"""The counts of the contract.

Counted by distinct (message, vCPU), so redelivery changes nothing.
"""

from collections.abc import Iterable, Iterator

from teardown_lab.checker import shapes
from teardown_lab.checker.dead_letters import distinct_letters
from teardown_lab.checker.facts import DeliveryId, Facts, is_request
from teardown_lab.checker.findings import Counts
from teardown_lab.checker.happens_before import Moment
from vm_protocol.messages import TLB_FLUSH


def count(facts: Facts) -> Counts:
    """Return the counts of one VM's history."""
    posted = [post for post in facts.posts if shapes.text(post.record, "kind") == TLB_FLUSH]
    return Counts(
        commands=_of_type(facts, facts.sent, "DestroyVcpu"),
        flush_broadcasts=_broadcasts(facts, posted),
        flush_deliveries=_flush_pairs(facts, facts.mailbox_arrivals),
        flush_acks=_flush_pairs(facts, facts.acked),
        unload_flush_requests=sum(
            len(shapes.numbers(post.record, "recipients")) for post in unload_flushes(facts)
        ),
        dead_letters=len(distinct_letters(facts)),
        unaccounted=sum(1 for _ in unaccounted(facts)),
    )


def _of_type(facts: Facts, messages: Iterable[str], name: str) -> int:
    return sum(1 for message_id in messages if facts.types.get(message_id) == name)


def _broadcasts(facts: Facts, posted: list[Moment]) -> int:
    """Count flushes that were sent; a recorded kernel posts without a message."""
    sent = {each for each in facts.sent if facts.types.get(each) == "TlbFlush"}
    unsent = 0
    for post in posted:
        if shapes.numbers(post.record, "recipients") and post.record.message_id not in sent:
            unsent += 1
    return len(sent) + unsent


def _flush_pairs(facts: Facts, deliveries: Iterable[DeliveryId]) -> int:
    return sum(1 for message_id, _ in deliveries if facts.types.get(message_id) == "TlbFlush")


def unload_flushes(facts: Facts) -> Iterator[Moment]:
    """Yield the TLB flushes that unloads raised, those to nobody included."""
    for post in facts.posts:
        record = post.record
        if shapes.text(record, "kind") == TLB_FLUSH and shapes.text(record, "by") == "unload":
            yield post


def unaccounted(facts: Facts) -> Iterator[DeliveryId]:
    """Yield expected deliveries of requests that were neither acknowledged nor dead-lettered."""
    lettered = {facts.delivery(letter.record) for letter in facts.letters}
    for message_id in facts.sent:
        if not is_request(facts, message_id):
            continue
        for vcpu in sorted(facts.recipients(message_id)):
            delivery = (message_id, vcpu)
            if delivery not in facts.acked and delivery not in lettered:
                yield delivery

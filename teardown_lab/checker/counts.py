"""The counts of the contract.

Counted by distinct (message, vCPU), so redelivery changes nothing.
"""

from collections.abc import Iterable, Iterator

from teardown_lab.checker import shapes
from teardown_lab.checker.dead_letters import distinct_letters
from teardown_lab.checker.facts import DeliveryId, Facts, Messages, Requests
from teardown_lab.checker.findings import Counts
from teardown_lab.checker.happens_before import Moment
from vm_protocol.messages import TLB_FLUSH


def count(facts: Facts) -> Counts:
    """Return the counts of one VM's history."""
    posts = facts.requests.posts
    posted = [post for post in posts if shapes.text(post.record, "kind") == TLB_FLUSH]
    return Counts(
        commands=len(facts.messages.of_type("DestroyVcpu")),
        flush_broadcasts=_broadcasts(facts.messages, posted),
        flush_deliveries=_flush_pairs(facts.messages, facts.deliveries.in_mailboxes),
        flush_acks=_flush_pairs(facts.messages, facts.deliveries.acked),
        unload_flush_requests=sum(
            len(shapes.numbers(post.record, "recipients"))
            for post in unload_flushes(facts.requests)
        ),
        dead_letters=len(distinct_letters(facts)),
        unaccounted=sum(1 for _ in unaccounted(facts)),
    )


def _broadcasts(messages: Messages, posted: list[Moment]) -> int:
    """Count flushes that were sent; a recorded kernel posts without a message."""
    sent = set(messages.of_type("TlbFlush"))
    unsent = 0
    for post in posted:
        if shapes.numbers(post.record, "recipients") and post.record.message_id not in sent:
            unsent += 1
    return len(sent) + unsent


def _flush_pairs(messages: Messages, deliveries: Iterable[DeliveryId]) -> int:
    return sum(1 for message_id, _ in deliveries if messages.types.get(message_id) == "TlbFlush")


def unload_flushes(requests: Requests) -> Iterator[Moment]:
    """Yield the TLB flushes that unloads raised, those to nobody included."""
    for post in requests.posts:
        record = post.record
        if shapes.text(record, "kind") == TLB_FLUSH and shapes.text(record, "by") == "unload":
            yield post


def unaccounted(facts: Facts) -> Iterator[DeliveryId]:
    """Yield expected deliveries of requests that were neither acknowledged nor dead-lettered."""
    lettered = {facts.messages.delivery(letter.record) for letter in facts.deliveries.letters}
    for message_id in facts.messages.sent:
        if not facts.messages.is_request(message_id):
            continue
        for vcpu in sorted(facts.messages.recipients(message_id)):
            delivery = (message_id, vcpu)
            if vcpu in facts.hosts.vcpus:
                continue  # its mailbox went with its host, and what was in it
            if delivery not in facts.deliveries.acked and delivery not in lettered:
                yield delivery

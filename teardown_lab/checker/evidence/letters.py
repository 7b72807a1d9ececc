"""Whether each dead letter has a cause that the history shows."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts
from vm_protocol.observations import Event

_REASONS: Final = ("rejected", "expired", "maxlen", "delivery_limit")


def notes(facts: Facts) -> Iterator[str]:
    """Yield dead letters that nobody can explain."""
    nameless = Counter(
        shapes.text(moment.record, "queue")
        for moment in facts.moments
        if moment.record.event is Event.MESSAGE_REJECTED and not moment.record.message_id
    )
    for letter in facts.deliveries.letters:
        message_id, _ = delivery = facts.messages.delivery(letter.record)
        queue = shapes.text(letter.record, "queue")
        reason = shapes.text(letter.record, "reason")
        named = message_id or "without an id"
        if reason not in _REASONS:
            yield f"dead letter {named} of {queue} has an unknown reason, {reason!r}"
        elif reason != "rejected":
            if delivery in facts.deliveries.acked and reason == "expired":
                yield f"dead letter {named} of {queue} ({reason}) was acknowledged"
        elif delivery not in facts.deliveries.rejected:
            nameless[queue] -= 1
            if nameless[queue] < 0 or message_id in facts.messages.sent:
                yield f"dead letter {named} of {queue}: nobody in the history rejected it"

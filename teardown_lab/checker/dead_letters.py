"""Dead letters: the invariant that the checker derives from each, and where the monitor differs."""

from collections.abc import Iterator, Mapping
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import DeliveryId, Facts, Messages
from teardown_lab.checker.findings import DeadLetter, Violation
from teardown_lab.checker.happens_before import Moment
from teardown_lab.checker.invariants_requests import UNREAD
from vm_protocol.invariants import Invariant

_OF_A_REJECT: Final = frozenset(
    {
        Invariant.USE_AFTER_FREE,
        Invariant.DOUBLE_FREE,
        Invariant.VM_STATE_USED_AFTER_FREE,
        Invariant.STUCK,
    }
)
_OF_UNREAD: Final = frozenset({Invariant.USE_AFTER_FREE})


def distinct_letters(facts: Facts) -> list[Moment]:
    """Return the dead letters; one that the monitor saw twice counts once."""
    seen: set[tuple[str, str, str]] = set()
    letters = []
    stale = set(facts.deliveries.stale_letters)
    for letter in sorted((*facts.deliveries.letters, *stale), key=lambda each: each.position):
        record = letter.record
        message_id = record.message_id or ""
        # A message of a manager out of office, and its successor's of the same id, may both die.
        reason = shapes.text(record, "why" if letter in stale else "reason")
        key = (message_id, shapes.text(record, "queue"), reason)
        if (letter in stale or message_id in facts.messages.types) and key in seen:
            continue
        seen.add(key)
        letters.append(letter)
    return letters


def classify(
    facts: Facts, violations: tuple[Violation, ...]
) -> tuple[tuple[DeadLetter, ...], tuple[str, ...]]:
    """Return the dead letters with their invariants, and a note for each disagreement."""
    by_delivery: dict[DeliveryId, list[Invariant]] = {}
    for violation in violations:
        key = (violation.message_id or "", violation.vcpu)
        by_delivery.setdefault(key, []).append(violation.invariant)
    letters: list[DeadLetter] = []
    notes: list[str] = []
    for moment in distinct_letters(facts):
        is_stale = moment in facts.deliveries.stale_letters
        letter = _letter(facts.messages, moment, {} if is_stale else by_delivery)
        letters.append(letter)
        notes.extend(_disagreement(moment, letter))
    return tuple(letters), tuple(notes)


def _letter(
    messages: Messages, moment: Moment, by_delivery: Mapping[DeliveryId, list[Invariant]]
) -> DeadLetter:
    reason = shapes.text(moment.record, "reason")
    delivery = messages.delivery(moment.record)
    # One delivery may break several invariants; the letter's reason says which it can show.
    possible = _OF_UNREAD if reason in UNREAD else _OF_A_REJECT
    found = (each for each in by_delivery.get(delivery, ()) if each in possible)
    invariant = next(found, None)
    return DeadLetter(reason, shapes.text(moment.record, "queue"), delivery[1], invariant)


def _disagreement(moment: Moment, letter: DeadLetter) -> Iterator[str]:
    if "invariant" not in moment.record.details:
        return
    said = moment.record.details["invariant"]
    own = str(letter.invariant) if letter.invariant else None
    if said != own:
        message = moment.record.message_id or "a message without an id"
        yield (
            f"the monitor classified dead letter {message} of {letter.queue} as "
            f"{said or 'no violation'}, the history says {own or 'no violation'}"
        )

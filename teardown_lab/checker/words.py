"""Sentences about several things."""

from collections.abc import Iterable


def some(text: str, what: Iterable[str], noun: str = "message") -> str:
    """Return a note about several things, naming the first; `text` has a place for the subject."""
    items = list(what)
    plural = len(items) > 1
    subject = f"{len(items)} {noun}{'s' * plural} {'were' if plural else 'was'}"
    clause = text.format(subject)
    if not plural:
        clause = clause.replace("before they can", "before it can").replace("their", "its")
    return f"{clause} (first: {items[0]})" if plural else f"{clause}: {items[0]}"

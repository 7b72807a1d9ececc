"""Whether a history has one order at all: numbers, Lamport times, lives of the VM.

A file of two runs, or a service that began anew under its name, gives its records numbers twice;
then nobody can tell what came first, and no finding that rests on an order is made.
"""

from collections.abc import Iterator
from typing import Final

from teardown_lab.checker.facts import Facts
from teardown_lab.checker.shapes import some
from vm_protocol.observations import Event
from vm_protocol.trust import epoch_of

_TICKS: Final = (Event.MESSAGE_SENT, Event.MESSAGE_RECEIVED)
"""They advance the Lamport time of their actor, which begins at 0 (`vm_protocol/recorder.py`)."""


def notes(facts: Facts) -> Iterator[str]:
    """Yield why the records cannot be put in one order; nothing when they can."""
    for actor in facts.timeline.restarted:
        name = facts.name_of(actor)
        yield f"two records of {name} carry one number: it was restarted, or the file is mixed"
    yield from facts.timeline.successions.contradictions
    yield from _takeovers(facts)
    for message_id in dict.fromkeys(facts.requests.ambiguous):
        yield f"different requests carry one id, {message_id}: whose deliveries is not to be told"
    if facts.timeline.contradictions:
        yield some("{} received before they can have been sent", facts.timeline.contradictions)
    if len(facts.life.created) > 1:
        yield "the VM was created more than once; its lives are judged as one"
    yield from _clocks(facts)
    yield from _once(facts)


def _takeovers(facts: Facts) -> Iterator[str]:
    """Yield managers of which nobody knows when, or that, they took the VM over."""
    actors = {moment.record.actor for moment in facts.moments}
    managers = sorted(actor for actor in actors if epoch_of(actor) is not None)
    if len({facts.timeline.successions.office(actor) for actor in managers}) > 1:
        yield f"{', '.join(managers)} had the VM, but a take-over is not in the history"
    for takeover in facts.life.takeovers:
        own = (each for each in facts.moments if each.record.actor == takeover.record.actor)
        if (earliest := next(own)) is not takeover:
            yield f"{facts.told(earliest.record)} stands before the one of its take-over"


def _clocks(facts: Facts) -> Iterator[str]:
    """Yield where Lamport times run against the numbers of an actor, or against a message."""
    last: dict[int, int] = {}
    for moment in facts.moments:
        record = moment.record
        # Times of two lives cannot be compared; notes() has said that there were two.
        again = record.actor in facts.timeline.restarted
        if record.lamport < last.get(moment.actor, 0):
            yield (
                f"{facts.told(record)} ({record.event}) has an earlier Lamport time than the "
                f"record before it"
            )
        elif record.event in _TICKS and record.lamport == last.get(moment.actor, 0) and not again:
            yield (
                f"{facts.told(record)} ({record.event}) has the Lamport time of the record before "
                f"it, though each sending and receipt advances it"
            )
        last[moment.actor] = record.lamport
        if record.event is not Event.MESSAGE_RECEIVED:
            continue
        sent = facts.messages.sent.get(record.message_id or "")
        known = record.message_id in facts.timeline.contradictions
        if sent is not None and not known and sent.record.lamport >= record.lamport:
            yield f"{record.message_id} was received at a Lamport time before that of its sending"


def _once(facts: Facts) -> Iterator[str]:
    for event in (Event.RUN_STARTED, Event.TEARDOWN_STARTED, Event.VM_FREED, Event.RUN_FINISHED):
        times = sum(1 for moment in facts.moments if moment.record.event is event)
        if times > 1:
            yield f"{event} stands in the history {times} times"
    for message_id in dict.fromkeys(facts.messages.sent_differently):
        yield f"{message_id} was sent with different bodies"

"""What keeps a history from proving safety: each reason as one sentence, a note.

Gaps in an actor's numbers are evidence only where the file says that it holds whole actors
(`run.started` with the detail `whole: true`): a file of one VM leaves out what the same services
did for others. Elsewhere missing records show by what refers to them: a message received but
never sent, settled but never received, posted but never sent.
"""

from collections.abc import Iterator
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.counts import unaccounted
from teardown_lab.checker.facts import FROM_CLIENTS, SERVED_ONCE, Facts
from teardown_lab.checker.findings import Violation
from teardown_lab.checker.invariants_mmu import RootLife
from teardown_lab.checker.invariants_vcpu import ACCESS_REASONS
from teardown_lab.checker.patience import LOST, OUT_OF_TIME, impatience
from teardown_lab.checker.shapes import some

_ENDINGS: Final = {
    "interrupted": "the run was interrupted",
    "refused": "the manager refused a command of the run",
}


def notes(
    facts: Facts, lives: dict[str, RootLife], violations: tuple[Violation, ...]
) -> Iterator[str]:
    """Yield why this history cannot prove safety, beside what its evidence lacks (evidence/)."""
    yield from _ending(facts)
    yield from impatience(facts, lives, violations)
    yield from _unsettled(facts)
    yield from _service_differs(facts, lives, violations)


def missing_records(facts: Facts) -> Iterator[str]:
    """Yield what shows that records are missing: then the absence of a record proves nothing."""
    yield from _unusable(facts)
    yield from _gaps(facts)
    yield from _beginning(facts)
    yield from _dangling(facts)


def _ending(facts: Facts) -> Iterator[str]:
    if facts.history.cut_off:
        yield "the last line of the history is cut off"
    outcome = facts.run.outcome
    if outcome in _ENDINGS:
        yield _ENDINGS[outcome]
    ended = facts.life.freed is not None or facts.life.stuck or outcome in (*OUT_OF_TIME, LOST)
    if not ended:
        yield "the history ends before the VM was freed and before a step was stuck"


def _unusable(facts: Facts) -> Iterator[str]:
    for each in facts.history.unusable:
        if each.record.vm in (facts.vm, None):
            yield f"{each.place} is left out: {each.lacks}"


def _gaps(facts: Facts) -> Iterator[str]:
    # Only a file with whole actors can have gaps; others leave out what is not about their VM.
    if facts.run.started is None or facts.run.started.details.get("whole") is not True:
        return
    office = facts.timeline.successions
    # A successor says how many records its predecessor has made; others tell it by their last.
    numbers: dict[str, set[int]] = {actor: set() for actor in office.ends}
    unusable = (each.record for each in facts.history.unusable)
    for record in (*facts.history.records, *unusable):
        if office.counts(record):
            numbers.setdefault(record.actor, set()).add(record.seq)
    for actor, found in sorted(numbers.items()):
        missing = office.ends.get(actor, max(found, default=-1) + 1) - len(found)
        if missing:
            records = f"{missing} record{'s' * (missing > 1)}"
            yield f"{records} of {facts.name_of(actor)} missing from the history"


def _beginning(facts: Facts) -> Iterator[str]:
    if not facts.scenario() and facts.has_messages:
        yield "the beginning is not in the history: nothing says what the VM was"
    elif facts.scenario() and facts.scenario_read() is None:
        yield "the scenario is none: a field is missing, of another type, or out of its bounds"
    said = facts.scenario().get("vcpus")
    known = len(facts.vcpus())
    if isinstance(said, int) and said != known:
        yield f"the scenario has {said} vCPUs, the history shows the creation of {known}"


def _dangling(facts: Facts) -> Iterator[str]:
    received = {message_id for message_id, _ in facts.deliveries.in_mailboxes}
    received |= {message_id for message_id, _ in facts.deliveries.arrivals}
    never_sent = [
        message_id
        for message_id in sorted(received)
        if message_id not in facts.messages.sent
        and facts.messages.types.get(message_id) not in FROM_CLIENTS
        and facts.has_messages
    ]
    if never_sent:
        yield some("{} received, but their sending is not in the history", never_sent)
    settled = {moment.record.message_id or "" for moment in facts.deliveries.unknown_settles}
    if settled:
        yield some("{} settled, but their arrival is not in the history", sorted(settled))
    if not facts.has_messages:
        return
    unsent = [
        message_id
        for message_id, post in facts.requests.post_of.items()
        if message_id not in facts.messages.sent and shapes.numbers(post.record, "recipients")
    ]
    if unsent:
        yield some("{} posted, but their sending is not in the history", unsent)
    unposted = [
        message_id
        for message_id in facts.messages.sent
        if facts.messages.is_request(message_id) and message_id not in facts.requests.post_of
    ]
    if unposted:
        yield some("{} sent, but their request.posted is not in the history", unposted)


def _unsettled(facts: Facts) -> Iterator[str]:
    open_requests = [f"{message_id} to vCPU {vcpu}" for message_id, vcpu in unaccounted(facts)]
    if open_requests:
        yield some("{} neither acknowledged nor dead-lettered", open_requests, "request")
    lettered = {facts.messages.delivery(letter.record) for letter in facts.deliveries.letters}
    settled = facts.deliveries.acked.keys() | lettered
    open_once = [
        message_id
        for message_id in facts.messages.sent
        if facts.messages.types.get(message_id) in SERVED_ONCE
        and (message_id, facts.messages.vcpu_of.get(message_id)) not in settled
        and facts.messages.vcpu_of.get(message_id) not in facts.hosts.vcpus
    ]
    if open_once:
        yield some("{} neither acknowledged nor dead-lettered", open_once)
    unlettered = [
        delivery[0]
        for delivery in facts.deliveries.rejected
        if delivery not in lettered
        and delivery[1] not in facts.hosts.vcpus
        and delivery[0] not in open_once
        and not facts.messages.is_request(delivery[0])
    ]
    if unlettered:
        yield some("{} rejected, but the dead letter was not seen by the monitor", unlettered)


def _service_differs(
    facts: Facts, lives: dict[str, RootLife], violations: tuple[Violation, ...]
) -> Iterator[str]:
    found = {(violation.message_id, violation.vcpu) for violation in violations}
    for delivery, moment in facts.deliveries.rejected.items():
        reason = shapes.text(moment.record, "reason")
        if reason in ACCESS_REASONS and delivery not in found:
            yield (
                f"{facts.name_of(moment.record.actor)} rejected {delivery[0]} as {reason}, but "
                f"the history shows no free before it"
            )
    for life in lives.values():
        if life.disagree:
            yield f"the manager's pins of {life.root} at its free are not those that it recorded"

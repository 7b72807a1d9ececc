"""What was not waited for long enough: no violation, but a note that says which bound to raise.

A run was out of time, or a service gave up a fence or a flush. Where the history does not show that
the wait was hopeless (`invariants_stuck`), a service or the broker was slow, or gone.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.findings import Violation
from teardown_lab.checker.happens_before import before
from teardown_lab.checker.invariants_mmu import RootLife
from teardown_lab.checker.invariants_requests import UNREAD, was_alive
from teardown_lab.checker.invariants_stuck import Fence, UnackedFlush, Waits, given_up
from vm_protocol import limits
from vm_protocol.errors import RejectReason
from vm_protocol.invariants import Invariant

OUT_OF_TIME: Final = ("timed-out-alive", "timed-out")
"""Outcomes of a run whose time was up; in the first, all services still answered."""

LOST: Final = "lost"
"""Outcome of a run that ended early, as somebody or something that it needs is gone."""

_TEXT_MAX: Final = 300
"""Of what a run says itself, a note repeats so much."""

_MORE: Final = 10
"""What a bound that was too short is best raised by at once: trying again takes long as well."""


def impatience(
    facts: Facts, lives: dict[str, RootLife], violations: tuple[Violation, ...]
) -> Iterator[str]:
    """Yield what was given up before its end; nothing that the history shows to be stuck."""
    yield from _ending(facts)
    if facts.life.freed is None:
        yield from _waits(facts, lives, violations)
        yield from _strangers(facts)
    yield from _unread(facts)


def _waits(
    facts: Facts, lives: dict[str, RootLife], violations: tuple[Violation, ...]
) -> Iterator[str]:
    stuck = [each for each in violations if each.invariant is Invariant.STUCK]
    commands = {each.message_id for each in stuck}
    vcpus = {each.vcpu for each in stuck}
    waits = Waits.of(facts, lives)
    told: set[int | None] = set()
    for fence in waits.fences():
        told.add(fence.vcpu)
        if fence.command not in commands:
            yield _fence(waits, fence)
    for (command, vcpu), holders in waits.spins():
        told.add(vcpu)
        if command not in commands:
            yield _spin(command, holders)
    for waited in waits.flush_waits():
        told.add(None)
        if None not in vcpus:
            yield _flush(facts, waited)
    if lost := given_up(facts):
        many = len(lost) > 1
        which = f"{len(lost)} messages were" if many else "1 message was"
        first = f" (first: {lost[0]})" if many else f": {lost[0]}"
        yield f"{which} given up: lost connections reached the delivery limit twice{first}"
        return
    for moment in facts.life.stuck:
        vcpu = moment.record.vcpu
        if vcpu not in told and vcpu not in vcpus and (vcpu is not None or not vcpus):
            told.add(vcpu)
            why = shapes.text(moment.record, "why") or "no reason is recorded"
            yield f"the manager gave the teardown up, and nothing shows that it cannot end: {why}"


def _fence(waits: Waits, fence: Fence) -> str:
    """Say what a free had waited for; a missing request that came later was on its way."""
    missing = [waits.requests.get(each, f"request {each}") for each in fence.missing]
    what = f"{missing[0]} had not arrived" if missing else "every request had arrived"
    more = f", nor {len(missing) - 1} more" if len(missing) > 1 else ""
    advice = _raise(waits.facts.scenario(), "fence_ms", limits.FENCE_MS)
    return (
        f"the free of vCPU {fence.vcpu} gave its fence up: {what}{more}. A worker or the broker "
        f"was slow, or gone; {advice}"
    )


def _flush(facts: Facts, waited: UnackedFlush) -> str:
    generation, vcpu = waited.missing[0]
    more = f" and {len(waited.missing) - 1} more" if len(waited.missing) > 1 else ""
    advice = _raise(facts.scenario(), "request_ms", limits.REQUEST_MS)
    return (
        f"the flush of generation {generation} was not acknowledged by vCPU {vcpu}{more}, and "
        f"none of them had refused it. A worker or the broker was slow, or gone; {advice}"
    )


def _spin(command: str, holders: frozenset[int]) -> str:
    left = ", ".join(map(str, sorted(holders)[:4]))
    who = f"vCPUs that were about to give theirs up ({left})" if holders else "nobody any more"
    return (
        f"{command} was given back up to the delivery limit of {limits.DELIVERY_LIMIT}, while "
        f"roots were pinned by {who}: the others were slow"
    )


def _raise(scenario: Mapping[str, object], name: str, default: int) -> str:
    value = scenario.get(name)
    now = value if isinstance(value, int) else default
    return f"raise the scenario's {name} from {now} to {now * _MORE}"


def _ending(facts: Facts) -> Iterator[str]:
    """Say where a run stood when its time was up or it was given up, and who was gone then."""
    outcome, finished = facts.run.outcome, facts.run.finished
    if finished is None or outcome not in (*OUT_OF_TIME, LOST):
        return
    timeout_ms = shapes.number(finished, "timeout_ms")
    gone = shapes.texts(finished, "missing") or ()
    how = "ran out of time"
    if outcome == LOST:
        how = "was given up"
    elif timeout_ms is not None:
        how += f" ({timeout_ms / 1000:g} s)"
    advice = "" if outcome == LOST or gone else "; raise --timeout"
    if advice and timeout_ms is not None:
        advice += f" to {timeout_ms * _MORE / 1000:g}"
    if outcome == "timed-out":
        advice += "; not all services answered"
    yield f"the run {how} {_place(facts)}{advice}"
    yield from (each[:_TEXT_MAX] for each in gone)


def _place(facts: Facts) -> str:
    if facts.life.freed is not None:
        return "after the VM was freed, while deliveries were open"
    if "DestroyVm" not in facts.messages.types.values():
        made, placed = len(facts.vcpus()), len(facts.memory.created)
        return f"while the VM was created ({placed} of {made} vCPUs were placed)"
    if facts.life.teardown_started is None:
        return "before the manager took DestroyVm up"
    ended = {message_id for message_id, _ in (*facts.deliveries.acked, *facts.deliveries.rejected)}
    open_commands = [
        message_id
        for message_id, name in facts.messages.types.items()
        if name == "DestroyVcpu" and message_id not in ended
    ]
    if not open_commands:
        return "between two steps of the teardown"
    more = f" and {len(open_commands) - 1} more" if len(open_commands) > 1 else ""
    key = shapes.text(facts.messages.sent[open_commands[0]].record, "routing_key")
    where = f" in {key}" if key else ""
    return f"while DestroyVcpu {open_commands[0]}{where}{more} had not ended"


def _strangers(facts: Facts) -> Iterator[str]:
    """Say which worker no longer knew a vCPU that it was given, and so could not go on."""
    seen: set[tuple[str, int | None]] = set()
    for (_, vcpu), rejected in facts.deliveries.rejected.items():
        reason = shapes.text(rejected.record, "reason")
        key = (rejected.record.actor, vcpu)
        removed = facts.life.removed is not None and before(facts.life.removed, rejected)
        removed = removed or vcpu in facts.hosts.vcpus
        if removed or key in seen:
            continue
        if reason == RejectReason.NOT_OWNED and vcpu in facts.memory.created:
            seen.add(key)
            yield (
                f"{facts.name_of(rejected.record.actor)} did not know vCPU {vcpu}, which it had "
                "been given: it was restarted, or its mailbox was removed"
            )


def _unread(facts: Facts) -> Iterator[str]:
    """Say which requests left a mailbox unread, where that is no use after a free."""
    lost: dict[tuple[str, int], list[str]] = {}
    for letter in facts.deliveries.letters:
        message_id, vcpu = facts.messages.delivery(letter.record)
        reason = shapes.text(letter.record, "reason")
        if reason not in UNREAD or vcpu is None:
            continue
        sent = facts.messages.sent.get(message_id)
        if was_alive(facts, message_id, vcpu):
            lost.setdefault((reason, vcpu), []).append(message_id)
        elif sent is None or not before(facts.memory.freed[vcpu][0].moment, sent):
            yield f"{message_id} left the mailbox of vCPU {vcpu} ({reason}), freed or not"
    for (reason, vcpu), messages in lost.items():
        some = f"{len(messages)} requests, first {messages[0]}," if messages[1:] else messages[0]
        yield (
            f"{some} left the mailbox of vCPU {vcpu} unread ({reason}) while the vCPU lived: its "
            "worker was slow, or gone; no ordering does this"
        )

"""The judgement of one VM's history; every other file here finds one part of it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.chains import links, with_evidence
from teardown_lab.checker.completeness import notes
from teardown_lab.checker.counts import count
from teardown_lab.checker.culprits import Culprits
from teardown_lab.checker.dead_letters import classify
from teardown_lab.checker.evidence import examine
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.findings import Found, LostHost, Seconds, Takeover, Verdict, Violation
from teardown_lab.checker.gathering import gather
from teardown_lab.checker.hazards import flushes_to_nobody, visible_while_freed
from teardown_lab.checker.history import History
from teardown_lab.checker.invariants_memory import guest_memory, unmaps_without_record
from teardown_lab.checker.invariants_mmu import (
    RootLife,
    root_frees,
    root_lives,
)
from teardown_lab.checker.invariants_requests import lost_flushes, lost_posts, unread_letter
from teardown_lab.checker.invariants_state import steps_without_record, vm_state_lives
from teardown_lab.checker.invariants_stuck import stuck_steps
from teardown_lab.checker.invariants_vcpu import vcpu_accesses
from teardown_lab.checker.invariants_vm import leaks, state_uses
from teardown_lab.checker.judgement import Judgement
from teardown_lab.checker.vacuity import vacuity
from teardown_lab.exit_codes import ExitCode
from vm_protocol.invariants import Invariant
from vm_protocol.trust import manager_actor
from vm_protocol.wire import Record

_USES: Final = (Invariant.USE_AFTER_FREE, Invariant.DOUBLE_FREE)


def judge(history: History, vm: str | None = None) -> Judgement:
    """Return the judgement of one VM's history, as `judge_facts` does of what is gathered from it.

    Args:
        history: What `load_history` read, or `History.of` took.
        vm: The VM to judge; may be left out when the history holds only one.

    Raises:
        HistoryError: The VM is not in the history, or is not named and not the only one.
    """
    return judge_facts(gather(history, vm))


def judge_facts(facts: Facts) -> Judgement:
    """Return the judgement of one VM; the same facts then serve its report."""
    lives = root_lives(facts)
    doubts = examine(facts)
    lost = [*lost_posts(facts), *lost_flushes(facts, doubts.owed)]
    violations = _violations(facts, lives, [found for _, found in lost])
    # What rests on missing or contradicting records is told as a note, not as a violation.
    doubtful = tuple(each for each in violations if doubts.cover(each))
    violations = tuple(with_evidence(facts, (each for each in violations if each not in doubtful)))
    # A vCPU that was used while freed is a violation, and no longer a hazard.
    used = {each.vcpu for each in violations if each.invariant in _USES}
    hazards = (
        *visible_while_freed(facts, used),
        *flushes_to_nobody(facts, {post for post, _ in lost}),
    )
    letters, disagreements = classify(facts, violations)
    reasons = (
        *notes(facts, lives, violations),
        *unmaps_without_record(facts, lives),
        *steps_without_record(facts),
        *doubts.notes,
        *_not_judged(doubtful),
        *disagreements,
    )
    return Judgement(
        vm=facts.vm,
        verdict=_verdict(violations, reasons),
        violations=violations,
        hazards=hazards,
        dead_letters=letters,
        counts=count(facts),
        vacuity=vacuity(facts, lives),
        notes=reasons,
        ordering=_ordering(facts),
        scenario=facts.scenario(),
        broker=shapes.text(facts.run.started, "broker") if facts.run.started else "",
        source=shapes.text(facts.run.started, "source") if facts.run.started else "",
        seconds=_seconds(facts),
        lost_hosts=tuple(_lost_hosts(facts)),
        messages=links(facts, violations),
        takeovers=tuple(_takeover(each.record) for each in facts.life.takeovers),
        stale_records=sum(each.vm == facts.vm for each in facts.timeline.stale),
    )


def exit_code(judgement: Judgement, strict: bool = False) -> int:
    """Return the exit code of a verdict; `strict` lets hazards fail a run."""
    if judgement.verdict is Verdict.VIOLATED or (strict and judgement.hazards):
        return ExitCode.VIOLATED
    return ExitCode.SAFE if judgement.verdict is Verdict.SAFE else ExitCode.INCONCLUSIVE


def _violations(
    facts: Facts, lives: dict[str, RootLife], lost: list[Found]
) -> tuple[Violation, ...]:
    """Return all violations in causal order, one per invariant, message and vCPU."""
    found = [*_found(facts, lives), *lost]
    known = {(each.violation.message_id, each.violation.vcpu) for each in found}
    unread = (unread_letter(facts, letter) for letter in facts.deliveries.letters)
    for each in unread:
        key = each and (each.violation.message_id, each.violation.vcpu)
        if each is not None and key not in known:
            known.add((each.violation.message_id, each.violation.vcpu))
            found.append(each)
    found.sort(key=_place)
    culprits = Culprits(facts)
    return tuple(_explained(each, culprits.sentence(each)) for each in found)


def _explained(found: Found, culprit: str) -> Violation:
    """Return the violation with the sentence about its culprit before all others."""
    violation = found.violation
    return replace(violation, explain=f"{culprit} {violation.explain}") if culprit else violation


def _not_judged(doubtful: tuple[Violation, ...]) -> Iterator[str]:
    for invariant in dict.fromkeys(each.invariant for each in doubtful):
        yield f"{invariant} is not judged: it would rest on what is missing or contradicts"


def _found(facts: Facts, lives: dict[str, RootLife]) -> Iterator[Found]:
    yield from vcpu_accesses(facts)
    yield from root_frees(facts, lives)
    yield from guest_memory(facts, lives)
    yield from leaks(facts, lives)
    yield from vm_state_lives(facts)
    yield from state_uses(facts)
    yield from stuck_steps(facts, lives)


def _place(found: Found) -> tuple[int, str, int, str]:
    violation = found.violation
    vcpu = -1 if violation.vcpu is None else violation.vcpu
    return found.position, violation.invariant, vcpu, violation.explain


def _verdict(violations: tuple[Violation, ...], reasons: tuple[str, ...]) -> Verdict:
    if violations:
        return Verdict.VIOLATED
    return Verdict.INCONCLUSIVE if reasons else Verdict.SAFE


def _lost_hosts(facts: Facts) -> Iterator[LostHost]:
    for lost in facts.hosts.lost:
        worker, reason = shapes.text(lost.record, "worker"), shapes.text(lost.record, "reason")
        yield LostHost(worker, reason, shapes.numbers(lost.record, "vcpus"))


def _ordering(facts: Facts) -> str:
    if facts.run.started is not None and shapes.text(facts.run.started, "ordering"):
        return shapes.text(facts.run.started, "ordering")
    if facts.life.teardown_started is None:
        return ""
    name = shapes.mapping(facts.life.teardown_started.record, "ordering").get("name", "")
    return str(name)


def _takeover(record: Record) -> Takeover:
    predecessor, entry, repeated = (
        shapes.number(record, name) or 0 for name in ("predecessor", "entry", "repeated")
    )
    return Takeover(record.actor, manager_actor(predecessor), entry, repeated)


def _seconds(facts: Facts) -> Seconds:
    """Return how long creation and teardown took, by the clock of the client that asked."""
    return Seconds(
        _between(facts, "CreateVm", "VmCreated"), _between(facts, "DestroyVm", "VmDestroyed")
    )


def _between(facts: Facts, command: str, answer: str) -> float | None:
    """Return the seconds from a command's sending to its answer's arrival."""
    ids = {name: message_id for message_id, name in facts.messages.types.items()}
    sent = facts.messages.sent.get(ids.get(command, ""))
    arrived = facts.deliveries.arrivals.get((ids.get(answer, ""), None))
    if sent is None or arrived is None:
        return None
    return max(0, arrived.record.at_ns - sent.record.at_ns) / 1e9

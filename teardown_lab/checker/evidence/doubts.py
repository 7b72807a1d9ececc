"""What is missing, what contradicts, and what therefore cannot be believed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.completeness import missing_records
from teardown_lab.checker.evidence import (
    bodies,
    letters,
    life,
    order,
    ordering,
    requests,
    roots,
    steps,
)
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.findings import Violation
from teardown_lab.checker.happens_before import Moment
from vm_protocol.invariants import Invariant
from vm_protocol.observations import Event

_OF_A_FREE: Final = (Invariant.USE_AFTER_FREE, Invariant.DOUBLE_FREE)
_BY_ABSENCE: Final = (
    Invariant.LEAK,
    Invariant.LOST_REQUEST,
    Invariant.PINNED_ROOT_FREED,
    Invariant.STALE_TLB,
    Invariant.MEMORY_MAPPED,
    Invariant.FREED_WHILE_RUNNING,
)
"""Broken where a free, an erase, an unpin or a flush is not recorded: a missing record looks so."""
_NOTES_MAX: Final = 40
"""Notes that a person reads; a file whose second half is lost has one for each lost step."""

_OF_ROOTS: Final = (Invariant.ROOT_FREED_TWICE,)


@dataclass(frozen=True, slots=True)
class Doubts:
    """Notes of what is missing and of what contradicts, and what rests on it.

    `posts` are contradictions about requests: the published body decides, so that no other finding
    rests on them. `owed` are the flushes that unloads owed and did not raise: a finding, no doubt.
    `disordered`: nobody can tell which record came first, so that nothing is judged. `frees` are
    the vCPUs whose free is recorded where it cannot have been, `messages` those whose records
    contradict each other.
    """

    missing: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    posts: tuple[str, ...] = ()
    disordered: bool = False
    frees: frozenset[int] = frozenset()
    states: bool = False
    roots: bool = False
    erases: frozenset[int] = frozenset()
    messages: frozenset[str] = frozenset()
    owed: tuple[tuple[Moment, str], ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return all notes, each once; of very many the first, and how many there are."""
        found = tuple(dict.fromkeys((*self.missing, *self.contradictions, *self.posts)))
        if len(found) <= _NOTES_MAX:
            return found
        return (*found[:_NOTES_MAX], f"{len(found) - _NOTES_MAX} more notes of this kind")

    @property
    def is_incomplete(self) -> bool:
        """Return whether anything is missing, or contradicts what a finding may rest on."""
        return bool(self.missing or self.contradictions)

    def cover(self, violation: Violation) -> bool:
        """Tell whether a violation rests on what is missing or contradicts.

        A use of the VM's state that names no vCPU is about background workers. It rests on an
        absence: nothing says that they stopped.
        """
        # Without an order all findings are in doubt, else those of contradicting messages.
        if self.disordered or violation.message_id in self.messages:
            return True
        invariant = violation.invariant
        if invariant in _BY_ABSENCE:
            return self.is_incomplete
        if invariant in _OF_A_FREE:
            return violation.vcpu in self.frees or (violation.vcpu is None and self.states)
        if invariant == Invariant.VISIBLE_AFTER_ERASE:
            return violation.vcpu in self.erases
        if invariant in _OF_ROOTS:
            return self.roots
        if invariant == Invariant.VM_STATE_USED_AFTER_FREE:
            return self.states or (violation.vcpu is None and self.is_incomplete)
        return False


def examine(facts: Facts) -> Doubts:
    """Return what in a history is missing or contradicts."""
    disorder = tuple(order.notes(facts))
    framed = steps.Frames(facts)
    wrong = bodies.Wrong(facts)
    held = roots.held(facts)
    rooted = tuple(held.notes) if held else ()
    return Doubts(
        missing=_all(
            missing_records(facts),
            requests.lost(facts),
            requests.untold(facts),
            framed.missing,
            steps.unanswered(facts),
            ordering.notes(facts),
            life.notes(facts),
            letters.notes(facts),
        ),
        contradictions=_all(disorder, wrong.notes, framed.contradictions, rooted),
        posts=tuple(requests.notes(facts)),
        disordered=bool(disorder),
        frees=frozenset(framed.frees),
        states=framed.states,
        erases=frozenset(framed.erases),
        roots=_is_copied(facts) or (held is not None and held.lacks_frees),
        owed=tuple((each.begun, each.message_id) for each in held.owed) if held else (),
        messages=frozenset(wrong.messages),
    )


def _is_copied(facts: Facts) -> bool:
    """Tell whether a root's free stands twice in one handling: one record, written twice."""
    frees = [
        (shapes.text(each.record, "root"), shapes.text(each.record, "by"), each.record.caused_by)
        for each in facts.mmu.roots
        if each.record.event is Event.ROOT_FREED
    ]
    return len(set(frees)) < len(frees)


def _all(*parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(note for part in parts for note in part)

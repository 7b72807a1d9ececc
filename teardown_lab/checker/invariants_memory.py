"""What may not happen to a running guest and its memory.

stale-tlb, memory-mapped, freed-while-running. Each root maps one page. Its owner gets it back when
`page.freed` says so, at the latest as the VM is freed (`exit_mmap()`); a stuck teardown frees none.
"""

from collections.abc import Iterator
from typing import Final

from teardown_lab.checker import explain, shapes
from teardown_lab.checker.facts import Facts, StepFacts
from teardown_lab.checker.findings import Found, Violation
from teardown_lab.checker.happens_before import Moment, before
from teardown_lab.checker.invariants_mmu import RootLife
from vm_protocol.invariants import Invariant

_ZAPS: Final = ("zap-all", "zap-until-empty")
"""`by` of a root's free that is a zap, and so unmaps what the root mapped."""

_ZAP_ALL: Final = "zap_all_roots"

Lives = dict[str, RootLife]


def guest_memory(facts: Facts, lives: Lives) -> Iterator[Found]:
    """Yield all that this file judges."""
    yield from _freed_while_running(facts)
    yield from _stale_translations(facts, lives)
    yield from _memory_mapped(facts, lives)


def _freed_while_running(facts: Facts) -> Iterator[Found]:
    """Yield vCPUs that were freed in their guest: entered, and not certainly left before.

    A flush that was taken is a guest that was left: it is a request, and any makes a vCPU leave.
    """
    for vcpu, entered in sorted(facts.guests.entered.items()):
        left = facts.guests.left.get(vcpu)
        # Only the first: another free of this vCPU is a double-free.
        for free in facts.memory.freed.get(vcpu, ())[:1]:
            ends = (left, facts.guests.tlb_flushed.get(vcpu))
            is_out = any(end is not None and before(end, free.moment) for end in ends)
            if before(entered, free.moment) and not is_out:
                text = explain.freed_while_running(vcpu, free)
                violation = Violation(Invariant.FREED_WHILE_RUNNING, vcpu, free.command, text)
                yield Found(free.moment.position, violation)


def _stale_translations(facts: Facts, lives: Lives) -> Iterator[Found]:
    """Yield pages that were given back while a vCPU in guest might still translate to them.

    Only an order that is certain makes it safe: the vCPU has left its guest, or flushed its TLB,
    before its owner gets the page. What is concurrent may come either way.
    """
    for page, freed in _given_back(facts, lives):
        for vcpu, entered in sorted(facts.guests.entered.items()):
            pages = entered.record.details.get("pages")
            if not isinstance(pages, list | tuple) or page not in pages:
                continue
            guests = facts.guests
            # With its host a guest is gone, and its TLB.
            lost = facts.hosts.vcpus.get(vcpu)
            ends = (guests.left.get(vcpu), guests.tlb_flushed.get(vcpu), lost)
            if not any(end is not None and before(end, freed) for end in ends):
                text = explain.stale_tlb(page, vcpu, with_vm=freed is facts.life.freed)
                yield _found(freed, Invariant.STALE_TLB, vcpu, text, page)


def _given_back(facts: Facts, lives: Lives) -> Iterator[tuple[str, Moment]]:
    """Yield each root's page, and when its owner gets it back: at the latest with the VM."""
    told = {shapes.text(freed.record, "root"): freed for freed in reversed(facts.mmu.pages_freed)}
    yield from ((shapes.text(freed.record, "root"), freed) for freed in facts.mmu.pages_freed)
    end = facts.life.freed
    if end is not None and not facts.life.stuck:
        yield from ((root, end) for root in lives if root not in told)


def _memory_mapped(facts: Facts, lives: Lives) -> Iterator[Found]:
    """Yield roots whose page nobody had unmapped as the VM's memory went back to its owner."""
    end = facts.life.freed
    # A stuck teardown frees no VM, so its memory has not gone back to anybody.
    if end is None or facts.life.stuck or facts.life.teardown_started is None:
        return
    told = {shapes.text(freed.record, "root") for freed in facts.mmu.pages_freed}
    for life in lives.values():
        is_known = life.allocated is not None and life.root not in told
        if is_known and not _is_zapped(life) and not _zapped_by(facts.steps, life):
            by = shapes.text(life.frees[0].moment.record, "by") if life.frees else ""
            text = explain.memory_mapped(life.root, by)
            yield _found(end, Invariant.MEMORY_MAPPED, life.holder, text, life.root)


def unmaps_without_record(facts: Facts, lives: Lives) -> Iterator[str]:
    """Yield roots that a zap-all found listed, and of which no page was given back: notes."""
    told = {shapes.text(freed.record, "root") for freed in facts.mmu.pages_freed}
    if facts.life.freed is None or facts.life.stuck:
        return
    for life in lives.values():
        is_told = life.root in told or _is_zapped(life)
        if life.allocated is not None and not is_told and _zapped_by(facts.steps, life):
            yield f"{_ZAP_ALL} ran while {life.root} was listed, yet its page was not given back"


def _is_zapped(life: RootLife) -> bool:
    return any(shapes.text(free.moment.record, "by") in _ZAPS for free in life.frees)


def _zapped_by(steps: StepFacts, life: RootLife) -> bool:
    """Return whether a zap-all began while a root was on the VM's list."""
    zaps = steps.named(_ZAP_ALL)
    return any(not any(before(free.moment, zap) for free in life.frees) for zap in zaps)


def _found(moment: Moment, invariant: Invariant, vcpu: int | None, text: str, root: str) -> Found:
    violation = Violation(invariant, vcpu, moment.record.caused_by, text)
    return Found(moment.position, violation, root)

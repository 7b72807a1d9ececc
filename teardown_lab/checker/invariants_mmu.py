"""What may not happen to MMU roots: pinned-root-freed, root-freed-twice, stale-tlb.

Pins are counted here from `root.pinned` and `root.unpinned`; what the service says of them at a
free is only compared. Leaked roots are judged with the VM (invariants_vm.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from teardown_lab.checker import explain, shapes
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.findings import Found, Invariant, Violation
from teardown_lab.checker.happens_before import Moment, before
from vm_protocol.observations import Event


@dataclass(frozen=True, slots=True)
class RootFree:
    """One free of a root, with the pins that were left on it."""

    moment: Moment
    pins: tuple[str, ...]


@dataclass(slots=True)
class RootLife:
    """A root from its allocation to its frees."""

    root: str
    mmu: str = ""
    allocated: Moment | None = None
    invalidated: Moment | None = None
    pins: dict[str, Moment] = field(default_factory=dict)
    holders: set[int] = field(default_factory=set)
    ever_pinned: bool = False
    released: bool = False
    frees: list[RootFree] = field(default_factory=list)
    disagree: bool = False

    @property
    def holder(self) -> int | None:
        """Return the only vCPU that ever pinned this root, None when there were others."""
        return next(iter(self.holders)) if len(self.holders) == 1 else None


def root_lives(facts: Facts) -> dict[str, RootLife]:
    """Return every root by its name, in order of first appearance."""
    lives: dict[str, RootLife] = {}
    for moment in facts.roots:
        name = shapes.text(moment.record, "root")
        _apply(lives.setdefault(name, RootLife(name)), moment)
    return lives


def _apply(life: RootLife, moment: Moment) -> None:
    record = moment.record
    pin = f"{record.vcpu}.{record.details.get('context')}.{record.details.get('slot')}"
    match record.event:
        case Event.ROOT_ALLOCATED:
            life.mmu = shapes.text(record, "mmu")
            life.allocated = moment
        case Event.ROOT_PINNED:
            life.pins[pin] = moment
            life.ever_pinned = True
            life.holders.add(record.vcpu or 0)
        case Event.ROOT_UNPINNED:
            life.pins.pop(pin, None)
            life.released = True
        case Event.ROOT_INVALIDATED:
            life.invalidated = life.invalidated or moment
        case _:
            said = shapes.texts(record, "pins")
            own = tuple(sorted(life.pins))
            if life.ever_pinned and said is not None and tuple(sorted(said)) != own:
                life.disagree = True
            life.frees.append(RootFree(moment, own if life.ever_pinned else said or ()))


def root_frees(facts: Facts, lives: dict[str, RootLife]) -> Iterator[Found]:
    """Yield roots that were freed under their holders, and roots that were freed twice."""
    for life in lives.values():
        pinned = next((free for free in life.frees if free.pins), None)
        if pinned is not None:
            by = shapes.text(pinned.moment.record, "by")
            text = explain.pinned_root_freed(life.root, by, pinned.pins)
            vcpus = {pin.partition(".")[0] for pin in pinned.pins}
            only = vcpus.pop() if len(vcpus) == 1 else ""
            vcpu = int(only) if only.isdecimal() else None
            yield _found(pinned.moment, Invariant.PINNED_ROOT_FREED, vcpu, text)
        if len(life.frees) > 1:
            again = life.frees[1].moment
            text = explain.root_freed_twice(life.root, shapes.text(again.record, "by"))
            yield _found(again, Invariant.ROOT_FREED_TWICE, life.holder, text)


def stale_translations(facts: Facts, lives: dict[str, RootLife]) -> Iterator[Found]:
    """Yield pages that were freed while a vCPU in guest could still translate to them.

    There is no record of guest entries: a vCPU is in the guest from its creation until its first
    request, step or free, as the scenario says. Only a definite order counts: the page's free
    happens before the vCPU leaves, or the vCPU never leaves in a whole history.
    """
    in_guest = _in_guest(facts)
    if not in_guest:
        return
    leaves = _leaves(facts)
    for life in lives.values():
        freed = _page_free(facts, life)
        if freed is None or life.mmu != "shadow":
            continue
        for vcpu in sorted(in_guest & life.holders):
            left = leaves.get(vcpu)
            if before(freed, left) if left is not None else facts.vm_freed is not None:
                text = explain.stale_tlb(life.root, vcpu)
                yield _found(freed, Invariant.STALE_TLB, vcpu, text)


def _in_guest(facts: Facts) -> set[int]:
    scenario = facts.scenario().get("in_guest")
    named = scenario if isinstance(scenario, list | tuple) else ()
    return {vcpu for vcpu in named if isinstance(vcpu, int)}


def _leaves(facts: Facts) -> dict[int, Moment]:
    """Return when each vCPU first did what it can do only outside the guest."""
    leaves: dict[int, Moment] = {}
    moments = [(vcpu, moment) for (_, vcpu), moment in facts.mailbox_arrivals.items()]
    moments += [(step.vcpu, step.moment) for step in facts.worker_steps]
    moments += [(vcpu, frees[0].moment) for vcpu, frees in facts.freed.items()]
    for vcpu, moment in moments:
        if vcpu is not None:
            first = leaves.setdefault(vcpu, moment)
            leaves[vcpu] = min(first, moment, key=lambda each: each.position)
    return leaves


def _page_free(facts: Facts, life: RootLife) -> Moment | None:
    """Return when the page of a root is freed: at the end of zap-all, else with the root."""
    for moment in facts.steps_finished:
        zapped = shapes.text(moment.record, "name") == "zap_all_roots"
        if zapped and (life.allocated is None or before(life.allocated, moment)):
            return moment
    return life.frees[0].moment if life.frees else None


def _found(moment: Moment, invariant: Invariant, vcpu: int | None, text: str) -> Found:
    violation = Violation(invariant, vcpu, moment.record.caused_by, text)
    return Found(moment.position, violation)

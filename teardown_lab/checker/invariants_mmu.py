"""What may not happen to MMU roots: pinned-root-freed, root-freed-twice.

Pins are counted here from `root.pinned` and `root.unpinned`; what the service says of them at a
free is only compared. Leaked roots are judged with the VM (invariants_vm.py), the memory that roots
map in invariants_memory.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from teardown_lab.checker import explain, shapes
from teardown_lab.checker.facts import Facts, Messages
from teardown_lab.checker.findings import Found, Violation
from teardown_lab.checker.happens_before import Moment
from vm_protocol.invariants import Invariant
from vm_protocol.observations import Event

_GIVE_UP: Final = ("RootsReleased", "ZapRequested")
"""Messages by which a vCPU gives up its own pins."""


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
    frees: list[RootFree] = field(default_factory=list)
    disagree: bool = False

    @property
    def holder(self) -> int | None:
        """Return the only vCPU that ever pinned this root, None when there were others."""
        return next(iter(self.holders)) if len(self.holders) == 1 else None


def root_lives(facts: Facts) -> dict[str, RootLife]:
    """Return every root by its name, in order of first appearance."""
    lives: dict[str, RootLife] = {}
    for moment in facts.mmu.roots:
        name = shapes.text(moment.record, "root")
        if not _is_anothers(facts.messages, moment):
            _apply(lives.setdefault(name, RootLife(name)), moment)
    return lives


def _is_anothers(messages: Messages, moment: Moment) -> bool:
    """Tell whether a pin was dropped because of what another vCPU gave up: it is still held."""
    record = moment.record
    cause = record.caused_by or ""
    is_told = record.event == Event.ROOT_UNPINNED and messages.types.get(cause) in _GIVE_UP
    return is_told and messages.vcpu_of.get(cause) != record.vcpu


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
        case Event.ROOT_INVALIDATED:
            life.invalidated = life.invalidated or moment
        case _:
            # A free: its own word on the pins is only compared with those that were counted.
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


def _found(moment: Moment, invariant: Invariant, vcpu: int | None, text: str) -> Found:
    violation = Violation(invariant, vcpu, moment.record.caused_by, text)
    return Found(moment.position, violation)

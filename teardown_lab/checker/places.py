"""Which step of the ordering something in a history belongs to, and its line in the YAML; pure.

The steps are read from the DestroyVm that the history holds, their lines from `run.started`. A
history without them, an older one or another client's, still has its steps' names.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.happens_before import Moment
from vm_protocol.ordering import LOOP, VM_STEPS

_ERASE: Final = "erase_vcpu"


@dataclass(frozen=True, slots=True)
class Place:
    """A step of an ordering; `vcpu` is whose, None for a step of the VM; `line` if it is known."""

    step: str
    line: int | None = None
    vcpu: int | None = None

    @property
    def name(self) -> str:
        """Return it without its vCPU, such as "`unload_mmu`, line 5"."""
        return f"`{self.step}`" + (f", line {self.line}" if self.line is not None else "")

    @property
    def aside(self) -> str:
        """Return its name where the sentence goes on, such as "`unload_mmu`, line 5,"."""
        return self.name + ("," if self.line is not None else "")

    @property
    def subject(self) -> str:
        """Return it as the subject of a sentence, such as "`unload_mmu`, line 5, of vCPU 0"."""
        return self.aside + (f" of vCPU {self.vcpu}" if self.vcpu is not None else "")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A step as it stands in the ordering: its outer position, and the part of its loop's body."""

    step: str
    line: int | None
    position: int
    part: int | None = None

    def of(self, vcpu: int | None) -> Place:
        """Return the place of this step for a vCPU."""
        return Place(self.step, self.line, None if self.part is None else vcpu)


@dataclass(frozen=True)
class Outline:
    """The steps of an ordering, loops' steps one by one; empty where it is not known."""

    leaves: tuple[Leaf, ...] = ()
    parts: Mapping[str, tuple[Leaf, ...]] = field(default_factory=dict)

    def named(self, step: str) -> tuple[Leaf, ...]:
        """Return the places at which a step of this name stands."""
        return tuple(leaf for leaf in self.leaves if leaf.step == step)

    def at(self, path: str, position: int, vcpu: int | None) -> Place | None:
        """Return the place of a step by its path in messages, and its position in the command."""
        leaves = self.parts.get(path, ())
        return leaves[position].of(vcpu) if 0 <= position < len(leaves) else None


def outline(facts: Facts) -> Outline:
    """Return the outline of the ordering that a history's teardown follows."""
    lines = shapes.numbers(facts.run.started, "lines") if facts.run.started else ()
    steps = _steps(facts)
    leaves = tuple(_leaves(steps, lines))
    if len(lines) != len(leaves):
        leaves = tuple(_leaves(steps, ()))
    parts: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        path = str(leaf.position) if leaf.part is None else f"{leaf.position}.{leaf.part}"
        parts.setdefault(path, []).append(leaf)
    return Outline(leaves, {path: tuple(found) for path, found in parts.items()})


def _steps(facts: Facts) -> Sequence[object]:
    """Return the ordering's steps as the teardown's own record, or else its command, has them."""
    if facts.life.teardown_started is not None:
        found = shapes.mapping(facts.life.teardown_started.record, "ordering").get("steps")
        if isinstance(found, list | tuple):
            return found
    for message_id, name in facts.messages.types.items():
        sent = facts.messages.sent.get(message_id) if name == "DestroyVm" else None
        ordering = shapes.mapping(sent.record, "body").get("ordering") if sent else None
        found = ordering.get("steps") if isinstance(ordering, dict) else None
        if isinstance(found, list | tuple):
            return found
    return ()


def _leaves(steps: Sequence[object], lines: Sequence[int]) -> Iterator[Leaf]:
    """Yield the steps one by one; parts are cut as the manager cuts them: an erase stands alone."""
    number = 0
    for position, step in enumerate(steps):
        body = _body(step)
        part, last = -1, _ERASE
        for name in body if body is not None else (str(step),):
            if _ERASE in (name, last):
                part += 1
            last = name
            line = lines[number] if number < len(lines) else None
            yield Leaf(name, line, position, None if body is None else part)
            number += 1


def _body(step: object) -> tuple[str, ...] | None:
    loop = step.get(LOOP) if isinstance(step, dict) else None
    names = loop.get("steps") if isinstance(loop, dict) else None
    return tuple(str(name) for name in names) if isinstance(names, list | tuple) else None


class Places:
    """Finds places in one history."""

    def __init__(self, facts: Facts) -> None:
        self.outline = outline(facts)
        self._facts = facts

    def of_started(self, moment: Moment) -> Place:
        """Return the place of a `step.started`."""
        record = moment.record
        name = shapes.text(record, "name")
        leaves = self.outline.parts.get(record.step or "", ())
        same = [leaf for leaf in leaves if leaf.step == name]
        if not same:
            return Place(name, None, record.vcpu)
        count = 0
        if len(same) > 1:  # the same step twice in one command: the how manieth is it?
            count = sum(1 for each in self._before(moment) if _is_same(each, moment))
        return same[min(count, len(same) - 1)].of(record.vcpu)

    def of_message(self, message_id: str | None, vcpu: int | None) -> Place | None:
        """Return the step that sent a message, told by its body; None where it says nothing."""
        body = self._facts.messages.body(message_id or "")
        path, position = body.text("step"), body.number("position")
        if not path:
            return None
        return self.outline.at(path, position or 0, vcpu)

    def last(self, moment: Moment, name: str, vcpu: int | None = None) -> Place | None:
        """Return the last step of this name that the same actor has begun by then."""
        for started in self._before(moment):
            record = started.record
            if shapes.text(record, "name") == name and vcpu in (None, record.vcpu):
                return self.of_started(started)
        return None

    def last_of_vm(self, moment: Moment) -> Place | None:
        """Return the last step of the VM itself that the same actor has begun by then."""
        for started in self._before(moment):
            if shapes.text(started.record, "name") in VM_STEPS:
                return self.of_started(started)
        return None

    def next_of(self, command: str, vcpu: int | None, moment: Moment) -> Place | None:
        """Return the step of a command that was to begin next, after those begun by then."""
        path = self._facts.messages.body(command).text("step")
        begun = sum(
            1
            for started in self._before(moment)
            if started.record.step == path and started.record.vcpu == vcpu
        )
        return self.outline.at(path, begun, vcpu)

    def end(self) -> Place | None:
        """Return the last step of the ordering."""
        return self.outline.leaves[-1].of(None) if self.outline.leaves else None

    def _before(self, moment: Moment) -> Iterator[Moment]:
        """Yield what the same actor had begun, the latest first; the moment itself left out."""
        begun = self._facts.steps.by_actor.get(moment.actor, [])
        until = bisect_right(begun, moment.index, key=lambda each: each.index)
        for place in range(until - 1, -1, -1):
            if begun[place] is not moment:
                yield begun[place]


def _is_same(earlier: Moment, moment: Moment) -> bool:
    one, other = earlier.record, moment.record
    name = shapes.text(one, "name")
    return (one.step, one.vcpu, name) == (other.step, other.vcpu, shapes.text(other, "name"))

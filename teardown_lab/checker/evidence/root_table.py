"""The roots of a VM, derived from its scenario and from what its vCPUs gave up.

Facts of the kernel: an unload drops the pins of one MMU context, then of the other; an invalid
shadow root whose last pin goes is freed, with one flush for each context. A zap-all makes pinned
shadow roots invalid and frees the others. `uninit_mmu` frees what is pinned, and unpinned TDP
roots. Nothing here is read from the records of roots: they are held against it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vm_protocol.scenario import SHADOW, Scenario, root_contexts

PinnedSlot = tuple[int, int, int]
"""(vCPU, MMU context, slot)."""

RootChange = tuple[str, ...]
"""What a record of a root must say: its event, the root, and what else tells it from others."""


@dataclass(slots=True)
class ListedRoot:
    """A root on the VM's list."""

    name: str
    is_shadow: bool
    pins: set[PinnedSlot] = field(default_factory=set)
    invalid: bool = False


class RootTable:
    """The list of roots; each method returns what a manager must record of a step."""

    def __init__(self, scenario: Scenario) -> None:
        self.roots: dict[str, ListedRoot] = {}
        for vcpu in range(scenario.vcpus):
            for context, held in enumerate(root_contexts(scenario, vcpu)):
                for slot, (name, mmu) in enumerate(held):
                    root = self.roots.setdefault(name, ListedRoot(name, mmu == SHADOW))
                    root.pins.add((vcpu, context, slot))

    def begin(self) -> list[RootChange]:
        """Return the allocations and pins with which the VM begins."""
        changes: list[RootChange] = []
        for root in self.roots.values():
            changes.append(("root.allocated", root.name, "shadow" if root.is_shadow else "tdp"))
            changes += [("root.pinned", root.name, pin_name(pin)) for pin in root.pins]
        return changes

    def unload(
        self, vcpu: int, contexts: Iterable[Iterable[str]], by: str = "unload"
    ) -> tuple[list[RootChange], int]:
        """Return the changes of an unload, and how many flushes have to come with them."""
        changes: list[RootChange] = []
        flushes = 0
        for context, names in enumerate(contexts):
            doomed = []
            for root in self._released(vcpu, context, names, changes):
                if not root.pins and root.invalid and root.is_shadow:
                    doomed.append(root)
            # One flush for a context however many roots it dooms; those are freed after it.
            flushes += bool(doomed)
            changes += self._freed(doomed, by)
        return changes, flushes

    def zap_until_empty(self, vcpu: int, contexts: Iterable[Iterable[str]]) -> list[RootChange]:
        """Return the changes of one turn of the loop of 2007."""
        changes: list[RootChange] = []
        for context, names in enumerate(contexts):
            self._released(vcpu, context, names, changes)
        unpinned = [root for root in self.roots.values() if not root.pins]
        return changes + self._freed(unpinned, "zap-until-empty")

    def zap_all(self) -> tuple[list[RootChange], list[str], int]:
        """Return the changes of a zap-all, the roots that it asks to drop, and its flushes."""
        listed = [root for root in self.roots.values() if root.is_shadow]
        pinned = [root for root in listed if root.pins]
        changes: list[RootChange] = [
            ("root.invalidated", root.name) for root in pinned if not root.invalid
        ]
        for root in pinned:
            root.invalid = True
        changes += self._freed([root for root in listed if not root.pins], "zap-all")
        return changes, [root.name for root in pinned], int(bool(listed))

    def uninit(self) -> list[RootChange]:
        """Return the changes of the MMU's end."""
        # Unpinned shadow roots stay, and leak: only a zap would have freed them.
        gone = [root for root in self.roots.values() if root.pins or not root.is_shadow]
        return self._freed(gone, "uninit")

    def _released(
        self, vcpu: int, context: int, names: Iterable[str], changes: list[RootChange]
    ) -> list[ListedRoot]:
        """Drop a vCPU's pins on named roots; return those that lost one."""
        lost = []
        for name in dict.fromkeys(names):
            root = self.roots.get(name)
            pins = {pin for pin in root.pins if pin[:2] == (vcpu, context)} if root else set()
            if root is None or not pins:
                continue
            root.pins -= pins
            changes += [("root.unpinned", name, pin_name(pin)) for pin in pins]
            lost.append(root)
        return lost

    def _freed(self, roots: list[ListedRoot], by: str) -> list[RootChange]:
        changes: list[RootChange] = []
        for root in roots:
            pins = ",".join(sorted(map(pin_name, root.pins)))
            changes.append(("root.freed", root.name, by, pins))
            del self.roots[root.name]
        return changes


def pin_name(pin: PinnedSlot) -> str:
    """Return a pin as the history writes it."""
    return ".".join(map(str, pin))

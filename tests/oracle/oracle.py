"""What a sequential teardown must come to: the whole specification, in one file.

For readers who know KVM and not this project. `expected(ordering, scenario)` walks an ordering step
by step, one vCPU after the other, as a kernel thread would, and says what must be found:
violations, hazards, dead letters, counts. It is written from the design and the kernel's facts, and
shares no code with services or checker, so that one mistake cannot stand in both. There are no
messages here: a request is a write to the memory of each visible vCPU.

Both arguments are what a YAML reader returns; fields of a scenario may be left out. Each rule has a
mutation in mutations.py: broken on purpose, it is missed by somebody.

What no rule can foretell is *racy*, and says why; nothing is promised then:
  - the ticker writes at any moment: into a vCPU that is freed and still visible, past one that is
    hidden and alive, into one in its guest (which then leaves it);
  - without the fence, a request that a vCPU got before its free may be read after it;
  - with `parallel`, vCPUs are destroyed at once.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

Finding = tuple[str, int | None]
"""An invariant or hazard, and the vCPU that it is about (None: the VM, or several vCPUs)."""

Letter = tuple[str, int | None, str]
"""A dead letter: why it died, the vCPU, the invariant that it shows."""

DEFAULTS: Mapping[str, Any] = {
    "vcpus": 4, "mmu": "shadow", "roots": "distinct", "previous_roots": 0, "async_pf": 0,
    "ticker": True, "avic": False, "nested": (), "in_guest": (),
}  # fmt: skip


@dataclass
class Expectation:
    """What must be found; `racy` holds the reasons why something else may be found as well."""

    violations: Counter[Finding] = field(default_factory=Counter)
    hazards: Counter[Finding] = field(default_factory=Counter)
    dead_letters: Counter[Letter] = field(default_factory=Counter)
    commands: int = 0
    flush_broadcasts: int = 0
    flush_deliveries: int = 0
    flush_acks: int = 0
    unload_flush_requests: int = 0
    racy: set[str] = field(default_factory=set)

    @property
    def verdict(self) -> str:
        return "violated" if +self.violations else "safe"


@dataclass(eq=False)
class Root:
    """An MMU root: the top of a page table, which maps one page of the guest's memory.

    `mapped` until a zap unmaps that page; `owned` once its owner, the VMM, has it back.
    """

    shadow: bool
    pins: list["Vcpu"] = field(default_factory=list)
    holders: set[int] = field(default_factory=set)
    invalid: bool = False
    exists: bool = True
    mapped: bool = True
    owned: bool = False


@dataclass(eq=False)
class Vcpu:
    """A vCPU. `roots` it still holds, by MMU context; `pages` are in its TLB while it is `inside`.

    `asked`: it got a request. `window`: a step ran while it was freed and visible. `used`: somebody
    touched it after its free.
    """

    index: int
    roots: tuple[list[Root], list[Root]]
    nested: bool
    faults: int
    inside: bool
    pages: list[Root]
    visible: bool = True
    erased: bool = False
    freed: bool = False
    asked: bool = False
    window: bool = False
    used: bool = False


class Stuck(Exception):
    """A step that cannot end: the steps behind it never run, and the VM is not freed."""


def expected(ordering: Mapping[str, Any], scenario: Mapping[str, Any]) -> Expectation:
    """Return what a teardown in this order, of a VM like this, must come to."""
    teardown = Teardown(ordering, {**DEFAULTS, **scenario})
    try:
        for step in ordering["steps"]:
            teardown.take(step)
        teardown.vm_is_freed()
    except Stuck:
        pass
    for vcpu in teardown.vcpus:
        if vcpu.window and not vcpu.used:
            teardown.found.hazards["visible-while-freed", vcpu.index] += 1
    return teardown.found


class Teardown:
    """A VM, and what has been found so far. Each method below is a rule or a step."""

    def __init__(self, ordering: Mapping[str, Any], scenario: Mapping[str, Any]) -> None:
        self.found = Expectation()
        self.wait_for_all = ordering.get("flush_wait") == "all"
        self.fence = ordering.get("fence", True)
        self.stop_at_hole = ordering.get("array") == "stop-at-hole"
        self.avic, self.ticker = scenario["avic"], scenario["ticker"]
        self.background = True
        self.gone: set[str] = set()
        self.vcpus = self.created(scenario)

    def created(self, scenario: Mapping[str, Any]) -> list[Vcpu]:
        """Pin a current root and the cached previous ones; a nested vCPU under TDP, one more."""
        shadow = scenario["mmu"] == "shadow"
        table: dict[tuple[int, int], Root] = {}
        vcpus = []
        slots = range(1 + scenario["previous_roots"])
        for index in range(scenario["vcpus"]):
            owner = {"distinct": index, "shared": 0, "mixed": index // 2}[scenario["roots"]]
            first = [table.setdefault((slot, owner), Root(shadow)) for slot in slots]
            nested = index in scenario["nested"]
            second = [Root(shadow=True)] if nested and not shadow else []
            inside, faults = index in scenario["in_guest"], scenario["async_pf"]
            vcpus.append(Vcpu(index, (first, second), nested, faults, inside, [*first, *second]))
            for root in vcpus[-1].pages:
                root.pins.append(vcpus[-1])
                root.holders.add(index)
        self.all_roots = list(dict.fromkeys(root for vcpu in vcpus for root in vcpu.pages))
        return vcpus

    # The order of steps -------------------------------------------------------------------------

    def take(self, step: Any) -> None:
        """Run one step of the VM, or a loop over all vCPUs, whether or not they are hidden.

        Neighbouring steps of a vCPU's worker are one command; the erase is the VM's own.
        """
        if isinstance(step, str):
            self.begins(step)
            getattr(self, step)()
            return
        loop = step["for_each_vcpu"]
        loop = {"steps": loop} if isinstance(loop, list) else loop
        if loop.get("parallel", 1) != 1 and len(self.vcpus) > 1:
            self.found.racy.add("vCPUs are destroyed at once")
        descending = loop.get("order") == "descending"
        for vcpu in reversed(self.vcpus) if descending else self.vcpus:
            for is_erase, part in groupby(loop["steps"], "erase_vcpu".__eq__):
                if not is_erase:
                    self.command(vcpu, list(part))
                    continue
                self.begins("erase_vcpu", vcpu)
                self.erase_vcpu(vcpu)

    def command(self, vcpu: Vcpu, steps: list[str]) -> None:
        """Run a command; its first step that meets freed memory ends it."""
        self.found.commands += 1
        for step in steps:
            is_gone = vcpu.freed
            if is_gone:
                self.reject("double-free" if step == "free_vcpu" else "use-after-free", vcpu)
                return
            self.begins(step, vcpu)
            getattr(self, step)(vcpu)

    def begins(self, step: str, vcpu: Vcpu | None = None) -> None:
        """A step is a chance to walk the array: a freed vCPU that is in it was lucky."""
        for other in self.vcpus:
            if other.freed and other.visible and (step, vcpu) != ("erase_vcpu", other):
                other.window = True

    def reject(self, invariant: str, vcpu: Vcpu) -> None:
        """Something touched what is freed: one violation, one dead letter."""
        self.found.violations[invariant, vcpu.index] += 1
        self.found.dead_letters["rejected", vcpu.index, invariant] += 1
        if invariant != "vm-state-used-after-free":
            vcpu.used = True

    def post(self) -> list[Vcpu]:
        """kvm_make_all_cpus_request(): write a bit into every visible vCPU; return who they are.

        A vCPU in its guest is waited for until it has left (its processor does, even if the vCPU
        is freed), and does not enter again. Nobody serves the bit: the next entry would.
        """
        recipients = [vcpu for vcpu in self.vcpus if vcpu.visible]
        for vcpu in self.missed():
            self.found.violations["lost-request", vcpu.index] += 1
        for vcpu in recipients:
            vcpu.asked = True
            if vcpu.freed:
                self.reject("use-after-free", vcpu)
            vcpu.inside = False
        return recipients

    def missed(self) -> list[Vcpu]:
        """Return the vCPUs that live, were not erased, and still are in nobody's reach."""
        return [v for v in self.vcpus if not (v.visible or v.erased or v.freed)]

    def flush_tlbs(self, unloaded: Vcpu | None = None) -> None:
        """Flush TLBs; `flush_wait: all` waits for every recipient, and the dead never answer."""
        recipients = self.post()
        if not recipients and not self.missed():
            self.found.hazards["flush-to-nobody", unloaded.index if unloaded else None] += 1
        self.found.flush_broadcasts += bool(recipients)
        self.found.flush_deliveries += len(recipients)
        self.found.flush_acks += sum(not each.freed for each in recipients)
        if unloaded:
            self.found.unload_flush_requests += len(recipients)
        if self.wait_for_all and any(each.freed for each in recipients):
            self.found.violations["stuck", None] += 1
            raise Stuck

    # Steps of the VM ----------------------------------------------------------------------------

    def stop_background_workers(self) -> None:
        """Stop the ticker and the PIT; freeing the PIT asks all vCPUs to scan the IOAPIC."""
        if self.background:
            self.background = False
            self.post()

    def zap_all_roots(self) -> None:
        """kvm_mmu_zap_all(): free unpinned shadow roots, invalidate pinned ones; one flush for all.

        Each pinned one costs a drop-obsolete-roots request. Without a shadow root: neither. Then
        what roots mapped goes back to its owner, that of TDP roots too.
        """
        listed = self.roots()
        shadow = [root for root in listed if root.shadow]
        for root in shadow:
            root.invalid = True
            root.exists = bool(root.pins)
        for _ in [root for root in shadow if root.exists]:
            self.post()
        if shadow:
            self.flush_tlbs()
        for root in listed:
            root.mapped = False
        for root in listed:
            self.give_back(root)

    def free_irqchip(self, state: str = "irqchip") -> None:
        if state in self.gone:
            self.found.violations["double-free", None] += 1
        self.gone.add(state)

    def vendor_vm_destroy(self) -> None:
        self.free_irqchip("vendor")

    def uninit_mmu(self) -> None:
        """Free pinned roots under their holders, and unpinned TDP roots; unpinned shadow stay."""
        for root in self.roots():
            holders = {vcpu.index for vcpu in root.pins}
            if holders:
                self.found.violations["pinned-root-freed", only(holders)] += 1
            if holders or not root.shadow:
                root.exists = False
                root.pins.clear()

    # Steps of a vCPU ----------------------------------------------------------------------------

    def leave_nested(self, vcpu: Vcpu) -> None:
        """Leaving a nested guest reads PIC, IOAPIC and MSR filter; it is left once."""
        if vcpu.nested:
            vcpu.nested = False
            self.touch("irqchip", vcpu)

    def load_vcpu(self, vcpu: Vcpu) -> None:
        """With AVIC, loading and putting write the physical id table, which the vendor frees."""
        if self.avic:
            self.touch("vendor", vcpu)

    put_vcpu = load_vcpu

    def clear_async_pf(self, vcpu: Vcpu) -> None:
        vcpu.faults = 0

    def unload_mmu(self, vcpu: Vcpu) -> None:
        """kvm_mmu_unload(): drop the pins of one context, then of the other.

        A context flushes once if that was the last pin of an invalid root, which goes. A valid root
        without pins stays cached; a TDP root is never invalid, and so never costs a flush.
        """
        for context in vcpu.roots:
            doomed = [r for r in self.unpin(vcpu, context) if r.invalid and not r.pins]
            for root in doomed:
                root.exists = False
            if doomed:  # one flush, however many go
                self.flush_tlbs(unloaded=vcpu)

    def zap_all_until_empty(self, vcpu: Vcpu) -> None:
        """free_mmu_pages() of 2007: drop the own pins, zap until no root is left, flush nobody.

        A pinned root, TDP or not, stays on the list for ever: the command is tried again up to its
        delivery limit. What was mapped goes back to its owner with the VM.
        """
        for context in vcpu.roots:
            self.unpin(vcpu, context)
        for root in [root for root in self.roots() if not root.pins]:
            root.exists = root.mapped = False
        if self.roots():
            self.found.violations["stuck", vcpu.index] += 1
            self.found.dead_letters["delivery_limit", vcpu.index, "stuck"] += 1
            raise Stuck

    def free_vcpu(self, vcpu: Vcpu) -> None:
        """Leave a nested guest, free the memory; faults that still pend complete into it.

        The fence has it wait until every request that it got is read. No pin is dropped.
        """
        self.leave_nested(vcpu)
        if not self.fence and (vcpu.asked or self.ticker):
            self.found.racy.add("a request may be read after an unfenced free")
        if self.is_inside(vcpu):
            self.found.violations["freed-while-running", vcpu.index] += 1
        vcpu.freed = True
        for _ in range(vcpu.faults):
            self.reject("use-after-free", vcpu)
        vcpu.faults = 0
        self.may_tick()

    def erase_vcpu(self, vcpu: Vcpu) -> None:
        """Take it out of the array; a walk that stops at holes misses everybody behind it too."""
        vcpu.erased = True
        last = len(self.vcpus) if self.stop_at_hole else vcpu.index + 1
        for hidden in self.vcpus[vcpu.index : last]:
            hidden.visible = False
        self.may_tick()

    def roots(self) -> list[Root]:
        return [root for root in self.all_roots if root.exists]

    def unpin(self, vcpu: Vcpu, context: list[Root]) -> list[Root]:
        """Drop a vCPU's pins in one context; return the roots that lost one."""
        released = [root for root in context if vcpu in root.pins]
        for root in released:
            root.pins.remove(vcpu)
        return released

    def give_back(self, root: Root) -> None:
        """A root's page goes back to its owner, once: nobody in guest may still translate to it."""
        if root.owned:
            return
        root.owned = True
        for vcpu in self.vcpus:
            if root in vcpu.pages and self.is_inside(vcpu):
                self.found.violations["stale-tlb", vcpu.index] += 1

    def is_inside(self, vcpu: Vcpu) -> bool:
        """Tell whether a vCPU runs its guest; what ticks may have made it leave it."""
        if vcpu.inside and self.ticker:
            self.found.racy.add("the ticker may have ended a guest")
        return vcpu.inside

    def touch(self, state: str, vcpu: Vcpu) -> None:
        if state in self.gone:
            self.reject("vm-state-used-after-free", vcpu)

    def may_tick(self) -> None:
        """The ticker posts to all visible vCPUs at any moment, until it is stopped."""
        ticks = self.ticker and self.background
        if ticks and any(v.visible and v.freed for v in self.vcpus):
            self.found.racy.add("the ticker runs while a freed vCPU is visible")
        if ticks and self.missed():
            self.found.racy.add("the ticker runs while a living vCPU is hidden")

    def vm_is_freed(self) -> None:
        """Whatever is left is lost; the rest of the memory goes back, mapped or not.

        The background workers, the PIT among them, use the VM until they are stopped.
        """
        for vcpu in self.vcpus:
            self.found.violations["leak", vcpu.index] += vcpu.faults
            self.found.violations["leak", vcpu.index] += not vcpu.freed
        for root in self.all_roots:
            self.found.violations["leak", only(root.holders)] += root.exists
            self.found.violations["memory-mapped", only(root.holders)] += root.mapped
            self.give_back(root)
        self.found.violations["leak", None] += len({"irqchip", "vendor"} - self.gone)
        self.found.violations["vm-state-used-after-free", None] += self.background


def only(vcpus: set[int]) -> int | None:
    """Name the vCPU that a root belongs to, or nobody if several share it."""
    return next(iter(vcpus)) if len(vcpus) == 1 else None

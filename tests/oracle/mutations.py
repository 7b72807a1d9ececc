"""The oracle's rules, each broken on purpose: (words of oracle.py, what stands there instead).

A rule that nobody would miss is no rule. test_mutation.py breaks one after the other and wants the
comparison with the product to notice; DIRECTED are cases for what random ones rarely reach.
"""

from typing import Any, Final

Plain = dict[str, Any]
Change = tuple[str, str]


def uncounted(what: str) -> Change:
    """Never count a finding."""
    return f"{what}] += 1", f"{what}] += 0"


def without(words: str) -> Change:
    """Leave a statement out."""
    return words, "pass"


def never(condition: str) -> Change:
    return f"if {condition}:", "if False:"


def always(condition: str) -> Change:
    return f"if {condition}:", "if True:"


MUTATIONS: Final[dict[str, Change]] = {
    # what a VM is made of
    "distinct roots": ('{"distinct": index,', '{"distinct": 0,'),
    "shared roots": ('"shared": 0,', '"shared": index,'),
    "mixed roots": ("index // 2}", "index // 3}"),
    "previous roots are pinned": ('range(1 + scenario["previous_roots"])', "range(1)"),
    "a nested vCPU has a second context": ("if nested and not shadow", "if False"),
    "under TDP alone": ("if nested and not shadow", "if nested"),
    "which holds a shadow root": ("Root(shadow=True)", "Root(shadow=False)"),
    # the order of steps
    "loops may go down": ("if descending", "if False"),
    "neighbouring steps are one command": ("commands += 1", "commands += len(steps)"),
    "an erase parts commands": ('"erase_vcpu".__eq__', '"no".__eq__'),
    "a step on a freed vCPU is a use": never("is_gone"),
    "a second free is no mere use": ('step == "free_vcpu"', "False"),
    "the first refused step ends a command": ("vcpu)\n                return", "vcpu)"),
    "a step in the window is a hazard": without("other.window = True"),
    "the erase itself is none": (' and (step, vcpu) != ("erase_vcpu", other)', ""),
    "an erased vCPU has no window": ("other.freed and other.visible and", "other.freed and"),
    "a window that was used is no hazard": ("and not vcpu.used", ""),
    "touches of VM state do not use it": always('invariant != "vm-state-used-after-free"'),
    "what is rejected is dead-lettered": uncounted('"rejected", vcpu.index, invariant'),
    "a stuck step ends it all": ("Stuck:\n        pass", "Stuck:\n        teardown.vm_is_freed()"),
    # requests
    "a request reaches who is visible": ("in self.vcpus if vcpu.visible]", "in self.vcpus]"),
    "who lives and is not reached loses it": uncounted('"lost-request", vcpu.index'),
    "an erased vCPU misses nothing": ("(v.visible or v.erased or", "(v.visible or"),
    "a request to a freed vCPU is a use": never("vcpu.freed"),
    "a request ends a guest": without("vcpu.inside = False"),
    "a flush to nobody is a hazard": uncounted("unloaded.index if unloaded else None"),
    "unless somebody missed it": ("if not recipients and not self.missed()", "if not recipients"),
    "a flush to nobody is not sent": ("bool(recipients)", "1"),
    "each visible vCPU gets a flush": ("deliveries += len(recipients)", "deliveries += 1"),
    "the dead do not acknowledge": ("sum(not each.freed for", "sum(True for"),
    "flushes of unloads are counted apart": always("unloaded"),
    "a flush waits for all if told so": ("if self.wait_for_all and", "if False and"),
    "by default it waits for guests alone": ("if self.wait_for_all and", "if"),
    # steps of the VM
    "a stop stops the workers": without("self.background = False"),
    "freeing the PIT posts a scan": ("= False\n            self.post()", "= False"),
    "a zap makes roots invalid": without("root.invalid = True"),
    "a zap frees roots without pins": without("root.exists = bool(root.pins)"),
    "a zap asks to drop each pinned root": ("[root for root in shadow if root.exists]", "[]"),
    "and no unpinned one": ("[root for root in shadow if root.exists]", "shadow"),
    "a zap flushes": without("self.flush_tlbs()"),
    "once, not for each root": ("        if shadow:\n", "        for _ in shadow:\n"),
    "TDP roots cost no request": ("[root for root in listed if root.shadow]", "listed"),
    "a zap unmaps": ("root.mapped = False\n        for", "pass\n        for"),
    "TDP roots too": ("in listed:\n            root.mapped", "in shadow:\n            root.mapped"),
    "what a zap unmaps goes back": ("listed:\n            self.give", "[]:\n            self.give"),
    "free_irqchip frees": ("self.gone.add(state)", 'self.gone.add("vendor")'),
    "vendor_vm_destroy frees": without('self.free_irqchip("vendor")'),
    "VM state is freed once": uncounted('"double-free", None'),
    "uninit frees roots under their holders": never("holders"),
    "uninit frees unpinned TDP roots": ("if holders or not root.shadow:", "if holders:"),
    "but no unpinned shadow ones": always("holders or not root.shadow"),
    # steps of a vCPU
    "a nested guest is left once": without("vcpu.nested = False"),
    "leaving it reads the irqchip": without('self.touch("irqchip", vcpu)'),
    "a free leaves it first": without("self.leave_nested(vcpu)"),
    "loading touches the vendor's state": without('self.touch("vendor", vcpu)'),
    "with AVIC alone": always("self.avic"),
    "so does putting": ("put_vcpu = load_vcpu", "put_vcpu = leave_nested"),
    "a use of what is freed is one": without('self.reject("vm-state-used-after-free", vcpu)'),
    "faults are cleared": ("vcpu.faults = 0\n\n", "pass\n\n"),
    "an unload drops pins": without("root.pins.remove(vcpu)"),
    "an unload of an invalid root flushes": never("doomed"),
    "of a valid one it does not": ("r.invalid and not r.pins", "not r.pins"),
    "nor before the last pin goes": ("r.invalid and not r.pins", "r.invalid"),
    "for one context it flushes once": ("if doomed:", "for _ in doomed:"),
    "the last unpin frees": ("root.exists = False\n            if do", "pass\n            if do"),
    "zapping until empty drops pins": ("    self.unpin(vcpu, context)\n", "    pass\n"),
    "it frees roots without pins": ("root.exists = root.mapped", "root.mapped"),
    "and unmaps them": ("root.exists = root.mapped", "root.exists"),
    "and no pinned ones": ("in self.roots() if not root.pins]", "in self.roots()]"),
    "a root that stays makes it stuck": never("self.roots()"),
    "which is a finding": uncounted('"stuck", vcpu.index'),
    "at its delivery limit": uncounted('"delivery_limit", vcpu.index, "stuck"'),
    "so is a flush that waits for the dead": uncounted('"stuck", None'),
    "a free in the guest is a bug": uncounted('"freed-while-running", vcpu.index'),
    "a free is a free": without("vcpu.freed = True"),
    "a pending fault completes later": ("in range(vcpu.faults):", "in range(0):"),
    "and is no leak as well": ("vcpu.faults = 0\n        self.may", "self.may"),
    "an erase hides": without("hidden.visible = False"),
    "an erase is remembered": without("vcpu.erased = True"),
    "a hole hides whoever is behind it": ("if self.stop_at_hole", "if False"),
    "on an array that stops at holes alone": ("if self.stop_at_hole", "if True"),
    # memory, and the end
    "a page goes back once": without("root.owned = True"),
    "nobody may translate to it then": uncounted('"stale-tlb", vcpu.index'),
    "a vCPU translates its own roots' pages": ("if root in vcpu.pages and self", "if self"),
    "a vCPU outside translates nothing": ("return vcpu.inside", "return True"),
    "pending faults leak": ("+= vcpu.faults", "+= 0"),
    "unfreed vCPUs leak": ("+= not vcpu.freed", "+= 0"),
    "roots leak": ("+= root.exists", "+= 0"),
    "memory may not be mapped at the end": ("+= root.mapped", "+= 0"),
    "all of it goes back then": ("mapped\n            self.give_back(root)", "mapped"),
    "irqchip and vendor state leak": ('len({"irqchip", "vendor"} - self.gone)', "0"),
    "background workers use the VM": ("+= self.background", "+= 0"),
    "a shared root is nobody's": ("if len(vcpus) == 1 else None", ""),
}  # fmt: skip

MUTATIONS_OF_RACES: Final[dict[str, Change]] = {
    "the ticker runs while a freed vCPU is visible": ("any(v.visible and v.freed", "any(False"),
    "the ticker runs while a living vCPU is hidden": never("ticks and self.missed()"),
    "the ticker may have ended a guest": never("vcpu.inside and self.ticker"),
    "a request may be read after an unfenced free": ("if not self.fence and", "if False and"),
    "vCPUs are destroyed at once": ('"parallel", 1) != 1', '"parallel", 1) != 2'),
}
"""By the reason that the oracle gives; RACES has a case for each."""

UNREACHABLE: Final[dict[str, Change]] = {
    "a freed vCPU misses nothing": ("v.erased or v.freed)", "v.erased)"),
}
"""A loop erases all or none, so whoever a hole hides is not freed before its own erase."""

END: Final = ["free_irqchip", "uninit_mmu", "vendor_vm_destroy"]
BEGIN: Final = ["stop_background_workers", "zap_all_roots"]


def plain(*steps: Any, **settings: str) -> Plain:
    return {"name": "directed", "steps": list(steps), **settings}


def each(*steps: str) -> Plain:
    return {"for_each_vcpu": list(steps)}


def vm(vcpus: int, **fields: Any) -> Plain:
    return {"vcpus": vcpus, "ticker": False, **fields}


DIRECTED: Final[dict[str, tuple[Plain, Plain]]] = {
    "two roots of one context go with one flush": (
        plain(*BEGIN, each("unload_mmu", "free_vcpu", "erase_vcpu"), *END),
        vm(1, previous_roots=1),
    ),
    "memory goes while a vCPU runs on it": (
        plain(BEGIN[1], each("unload_mmu"), END[1], BEGIN[0], each("free_vcpu", "erase_vcpu")),
        vm(2, mmu="tdp", in_guest=[1]),
    ),
    "a vCPU is freed as it runs, and flushed after that": (
        plain(each("unload_mmu", "free_vcpu"), "flush_tlbs", each("erase_vcpu"), BEGIN[1], END[1]),
        vm(1, in_guest=[0]),
    ),
    "what a vCPU that is freed in sight has touched before is gone": (
        plain(*BEGIN, each("unload_mmu"), END[0], each("free_vcpu"), *END[1:], each("erase_vcpu")),
        vm(2, nested=[0]),
    ),
    "nobody stops the workers": (
        plain("zap_all_roots", each("unload_mmu", "erase_vcpu", "free_vcpu"), *END),
        vm(2, ticker=True),
    ),
    "nobody unmaps the memory": (
        plain(BEGIN[0], each("unload_mmu", "free_vcpu", "erase_vcpu"), *END),
        vm(2, mmu="tdp"),
    ),
    "the MMU goes before its roots are zapped": (
        plain(BEGIN[0], "uninit_mmu", BEGIN[1], each("unload_mmu", "free_vcpu", "erase_vcpu")),
        vm(2),
    ),
}  # fmt: skip
"""Each on the product as well; among them those that an earlier release called safe."""

DESTROY: Final = ("unload_mmu", "free_vcpu", "erase_vcpu")
RACES: Final[dict[str, tuple[Plain, Plain]]] = {
    "the ticker runs while a freed vCPU is visible": (
        plain(BEGIN[1], each(*DESTROY), *END, BEGIN[0]),
        vm(1, ticker=True),
    ),
    "the ticker runs while a living vCPU is hidden": (
        plain(each("erase_vcpu", "free_vcpu"), BEGIN[0], array="stop-at-hole"),
        vm(2, ticker=True),
    ),
    "the ticker may have ended a guest": (
        plain(each("load_vcpu", "erase_vcpu", "free_vcpu"), BEGIN[0]),
        vm(1, in_guest=[0], ticker=True),
    ),
    "a request may be read after an unfenced free": (
        {**plain(*BEGIN, each(*DESTROY), *END), "fence": False},
        vm(1),
    ),
    "vCPUs are destroyed at once": (
        plain(*BEGIN, {"for_each_vcpu": {"parallel": 2, "steps": list(DESTROY)}}, *END),
        vm(2),
    ),
}
"""One VM each that ends in more than one way."""

"""Orderings that break each invariant, and the sentence that names who did it, with its line."""

from vm_protocol.scenario import Scenario


def steps(*lines: str, head: str = "") -> str:
    """Return an ordering whose step number n stands on line n + 2."""
    return f"name: own\n{head}steps:\n" + "".join(f"  {line}\n" for line in lines)


LOOP = "- for_each_vcpu:"
FIRST = {
    "a flush into the window": (
        steps(
            "- stop_background_workers",
            "- zap_all_roots",
            LOOP,
            "    - unload_mmu",
            "    - free_vcpu",
            "- for_each_vcpu: [erase_vcpu]",
            "- uninit_mmu",
        ),
        Scenario(vcpus=2),
        "use-after-free",
        "`unload_mmu`, line 6, of vCPU 1 posted a TLB flush, which reached vCPU 0 after its "
        "`free_vcpu`, line 7, and before its `erase_vcpu`, line 8. ",
    ),
    "a flush of nobody's unload": (
        steps(
            "- stop_background_workers",
            "- for_each_vcpu: [free_vcpu]",
            "- zap_all_roots",
            "- for_each_vcpu: [erase_vcpu]",
        ),
        Scenario(vcpus=1),
        "use-after-free",
        "`zap_all_roots`, line 5, posted a request to drop obsolete roots, which reached vCPU 0 "
        "after its `free_vcpu`, line 4, and before its `erase_vcpu`, line 6. ",
    ),
    "nothing erases": (
        steps("- for_each_vcpu: [free_vcpu]", "- flush_tlbs"),
        Scenario(vcpus=1, ticker=False),
        "use-after-free",
        "`flush_tlbs`, line 4, posted a TLB flush, which reached vCPU 0 after its `free_vcpu`, "
        "line 3, with nothing to erase the vCPU. ",
    ),
    "a step after the free": (
        steps(LOOP, "    - free_vcpu", "    - unload_mmu"),
        Scenario(vcpus=1),
        "use-after-free",
        "`unload_mmu`, line 5, of vCPU 0 began after its `free_vcpu`, line 4. ",
    ),
    "a step after the free in another loop": (
        steps(
            "- for_each_vcpu: [free_vcpu]",
            "- for_each_vcpu:",
            "    - erase_vcpu",
            "    - load_vcpu",
        ),
        Scenario(vcpus=2),
        "use-after-free",
        "`load_vcpu`, line 6, of vCPU 0 began after its `free_vcpu`, line 3. ",
    ),
    "a late completion": (
        steps(LOOP, "    - free_vcpu", "    - erase_vcpu"),
        Scenario(vcpus=1, async_pf=1),
        "use-after-free",
        "`free_vcpu`, line 4, of vCPU 0 freed it with async page fault 0 pending: no "
        "`clear_async_pf` comes before. ",
    ),
    "a second free": (
        steps(LOOP, "    - free_vcpu", "    - free_vcpu"),
        Scenario(vcpus=1),
        "double-free",
        "`free_vcpu`, line 5, of vCPU 0 began after its `free_vcpu`, line 4. ",
    ),
    "a root freed under its vCPU": (
        steps("- uninit_mmu", LOOP, "    - unload_mmu", "    - free_vcpu", "    - erase_vcpu"),
        Scenario(vcpus=2),
        "pinned-root-freed",
        "`uninit_mmu`, line 3, freed root-0 before `unload_mmu`, line 5, of vCPU 0 gave it up. ",
    ),
    "a root freed under a vCPU that nobody unloads": (
        steps("- uninit_mmu", "- for_each_vcpu: [free_vcpu, erase_vcpu]"),
        Scenario(vcpus=1),
        "pinned-root-freed",
        "`uninit_mmu`, line 3, freed root-0 and no step unloads its vCPU. ",
    ),
    "a root freed before it was given up by a zap until empty": (
        steps("- uninit_mmu", LOOP, "    - zap_all_until_empty", "    - free_vcpu"),
        Scenario(vcpus=1),
        "pinned-root-freed",
        "`uninit_mmu`, line 3, freed root-0 before `zap_all_until_empty`, line 5, of vCPU 0 gave "
        "it up. ",
    ),
    "a leaked root": (
        steps(
            "- stop_background_workers",
            "- for_each_vcpu:",
            "    - unload_mmu",
            "    - free_vcpu",
            "    - erase_vcpu",
        ),
        Scenario(vcpus=1),
        "leak",
        "`erase_vcpu`, line 7, is the last step, and root-0 is still there: the ordering has no "
        "`zap_all_roots` and no `uninit_mmu`. ",
    ),
    "a vCPU that is never freed": (
        steps(
            "- stop_background_workers", "- for_each_vcpu: [unload_mmu, erase_vcpu]", "- uninit_mmu"
        ),
        Scenario(vcpus=1),
        "leak",
        "`uninit_mmu`, line 5, is the last step, and vCPU 0 is still there: the ordering has no "
        "`free_vcpu`. ",
    ),
    "a fault that is never completed": (
        steps(
            "- stop_background_workers", "- for_each_vcpu: [unload_mmu, erase_vcpu]", "- uninit_mmu"
        ),
        Scenario(vcpus=1, async_pf=1),
        "leak",
        "`uninit_mmu`, line 5, is the last step, and async page fault 0 of vCPU 0 is still there: "
        "the ordering has no `clear_async_pf`. ",
    ),
    "VM state read after its free": (
        steps("- free_irqchip", LOOP, "    - free_vcpu", "    - erase_vcpu"),
        Scenario(vcpus=1, nested=(0,)),
        "vm-state-used-after-free",
        "`free_vcpu`, line 5, of vCPU 0 used the VM's irqchip state after `free_irqchip`, line 3. ",
    ),
    "vendor state touched after its free": (
        steps("- vendor_vm_destroy", LOOP, "    - load_vcpu", "    - put_vcpu"),
        Scenario(vcpus=1, avic=True),
        "vm-state-used-after-free",
        "`load_vcpu`, line 5, of vCPU 0 used the VM's vendor state after `vendor_vm_destroy`, "
        "line 3. ",
    ),
    "a request behind a hole": (
        steps(
            "- zap_all_roots",
            LOOP,
            "    - unload_mmu",
            "    - free_vcpu",
            "    - erase_vcpu",
            head="array: stop-at-hole\n",
        ),
        Scenario(vcpus=2, ticker=False),
        "lost-request",
        "`erase_vcpu`, line 8, of vCPU 0 left a hole that hides vCPU 1: `unload_mmu`, line 6, of "
        "vCPU 1 posted a TLB flush that misses it. ",
    ),
    "a page given back under a guest": (
        steps("- for_each_vcpu: [erase_vcpu]", "- zap_all_roots"),
        Scenario(vcpus=1, in_guest=(0,), ticker=False),
        "stale-tlb",
        "`zap_all_roots`, line 4, gave the page of root-0 back while vCPU 0 ran on it. ",
    ),
    "a vCPU freed in its guest": (
        steps("- for_each_vcpu: [free_vcpu]"),
        Scenario(vcpus=1, in_guest=(0,), ticker=False),
        "freed-while-running",
        "`free_vcpu`, line 3, of vCPU 0 freed it in its guest: nothing had made it leave. ",
    ),
    "memory that is given back under a guest": (
        steps("- free_irqchip", "- for_each_vcpu: [free_vcpu]"),
        Scenario(vcpus=1, in_guest=(0,), ticker=False),
        "stale-tlb",
        "`free_vcpu`, line 4, is the last step, and vCPU 0 still runs on the page of root-0. ",
    ),
    "memory that nobody unmaps": (
        steps("- free_irqchip", "- for_each_vcpu: [free_vcpu]"),
        Scenario(vcpus=1),
        "memory-mapped",
        "`free_vcpu`, line 4, is the last step, and root-0 still maps its page: the ordering has "
        "no `zap_all_roots`. ",
    ),
    "memory whose root is freed and not zapped": (
        steps("- uninit_mmu", "- zap_all_roots"),
        Scenario(vcpus=1),
        "memory-mapped",
        "`uninit_mmu`, line 3, freed root-0 before any zap had unmapped its page. ",
    ),
    "VM state that is never freed": (
        steps("- free_irqchip", "- zap_all_roots"),
        Scenario(vcpus=1),
        "leak",
        "`zap_all_roots`, line 4, is the last step, and the VM's vendor state is still there: the "
        "ordering has no `vendor_vm_destroy`. ",
    ),
    "VM state that is freed again": (
        steps("- free_irqchip", "- zap_all_roots", "- free_irqchip"),
        Scenario(vcpus=1),
        "double-free",
        "`free_irqchip`, line 5, freed the VM's irqchip state again, after `free_irqchip`, "
        "line 3. ",
    ),
    "workers that are never stopped": (
        steps("- free_irqchip", "- zap_all_roots"),
        Scenario(vcpus=1),
        "vm-state-used-after-free",
        "`zap_all_roots`, line 4, is the last step, and the ticker and the PIT still run: the "
        "ordering has no `stop_background_workers`. ",
    ),
    "a loop that spins": (
        steps("- for_each_vcpu: [clear_async_pf]", LOOP, "    - zap_all_until_empty"),
        Scenario(vcpus=2),
        "stuck",
        "`zap_all_until_empty`, line 5, of vCPU 0 cannot end. ",
    ),
}

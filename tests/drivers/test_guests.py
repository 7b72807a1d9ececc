"""One suite, two drivers: vCPUs in their guest, and flushes that wait for more than those."""

from pathlib import Path

from support.exploring import loop, ordering, shipped
from support.runs import broken, tear_down

from teardown_lab.experiment.lab import Lab

PATCH, WIPE_LAST = "unload-in-destroy", "unload-in-destroy-wipe-last"
N = 3


def test_the_patch_is_safe_with_vcpus_in_their_guest(lab: Lab, workdir: Path) -> None:
    judgement, _ = tear_down(lab, PATCH, workdir, vcpus=N, in_guest=(0, 2), ticker=False)

    assert (str(judgement.verdict), judgement.notes) == ("safe", ())
    assert judgement.counts.unload_flush_requests == N * (N + 1) // 2
    assert judgement.counts.dead_letters == 0


def test_a_flush_that_waits_for_all_waits_for_the_dead(lab: Lab, workdir: Path) -> None:
    """KVM waits for vCPUs in their guest only, and so is hit by the write and does not hang."""
    waiting = shipped(WIPE_LAST, flush_wait="all")

    judgement, _ = tear_down(lab, waiting, workdir, vcpus=N, ticker=False)
    patched, _ = tear_down(lab, shipped(PATCH, flush_wait="all"), workdir, vcpus=N, ticker=False)

    assert broken(judgement) == {"use-after-free": 1, "stuck": 1}
    assert [letter.reason for letter in judgement.dead_letters] == ["rejected"]
    assert broken(patched) == {}


def test_a_guest_that_is_hidden_before_the_zap_keeps_stale_translations(
    lab: Lab, workdir: Path
) -> None:
    """No scan of the IOAPIC comes before: any request makes a vCPU leave its guest.

    It is left out altogether, and so the background workers outlive the VM.
    """
    hidden_first = ordering(
        loop("erase_vcpu"),
        "zap_all_roots",
        loop("clear_async_pf", "unload_mmu", "free_vcpu"),
        "free_irqchip",
        "uninit_mmu",
        "vendor_vm_destroy",
    )

    inside, _ = tear_down(lab, hidden_first, workdir, vcpus=N, in_guest=(0, 1), ticker=False)
    outside, _ = tear_down(lab, hidden_first, workdir, vcpus=N, ticker=False)

    workers = {"vm-state-used-after-free": 1}
    assert broken(inside) == {"stale-tlb": 2, "freed-while-running": 2, **workers}
    assert broken(outside) == workers

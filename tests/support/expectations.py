"""The exact counts that every run is held against: one table for all.

Written as formulas of n, independently of the code under test.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """What one teardown of n vCPUs must show."""

    use_after_free: int
    unload_flush_requests: int
    before_vcpus: int


def _before(n: int, roots: str, mmu: str) -> int:
    """Requests before the vCPU part: scan IOAPIC + drop roots + flush."""
    if mmu == "tdp":
        return n
    return n + n * n + n if roots == "distinct" else 3 * n


def unload_in_destroy(n: int, roots: str, mmu: str) -> Cell:
    if mmu == "tdp":
        return Cell(0, 0, _before(n, roots, mmu))
    flushed = n * (n + 1) // 2 if roots == "distinct" else 1
    return Cell(0, flushed, _before(n, roots, mmu))


def wipe_last(n: int, roots: str, mmu: str) -> Cell:
    """Nothing is erased before all are freed: every flush reaches all n."""
    if mmu == "tdp":
        return Cell(0, 0, _before(n, roots, mmu))
    if roots == "distinct":
        return Cell(n * (n - 1) // 2, n * n, _before(n, roots, mmu))
    return Cell(n - 1, n, _before(n, roots, mmu))


def recipients_of_unload_flushes(n: int) -> list[list[int]]:
    """`unload-in-destroy`, distinct roots: flush k reaches exactly k..n-1."""
    return [list(range(k, n)) for k in range(n)]

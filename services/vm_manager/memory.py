"""The guest's memory: one page for each root, mapped until a zap unmaps it; pure.

KVM: the pages that a root's page tables map. They go back to their owner after a zap-all, and at
the latest with the VM (`exit_mmap()`); what is still mapped then, somebody may still write to.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Page:
    """The page of a root that its owner has not got back; `mapped` until a zap has unmapped it."""

    root: str
    mapped: bool = True


Pages = tuple[Page, ...]


def give_back(pages: Pages, roots: Collection[str]) -> tuple[Pages, tuple[str, ...]]:
    """Unmap the pages of these roots; return what is left, and those that their owner gets back."""
    kept = tuple(page for page in pages if page.root not in roots)
    return kept, tuple(page.root for page in pages if page.root in roots)


def unmap(pages: Pages, roots: Collection[str]) -> Pages:
    """Unmap the pages of these roots, whose owner gets them back with the VM."""
    return tuple(replace(page, mapped=False) if page.root in roots else page for page in pages)

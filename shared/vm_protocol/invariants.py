"""What no teardown may do: the names in JSON, metrics and reports, and the rejects that tell of it.

Services, explorer and checker find breaches each in their own way; only the names are shared.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from vm_protocol.errors import RejectReason


class Invariant(StrEnum):
    """What no teardown may do."""

    USE_AFTER_FREE = "use-after-free"
    DOUBLE_FREE = "double-free"
    VISIBLE_AFTER_ERASE = "visible-after-erase"
    PINNED_ROOT_FREED = "pinned-root-freed"
    ROOT_FREED_TWICE = "root-freed-twice"
    LEAK = "leak"
    VM_STATE_USED_AFTER_FREE = "vm-state-used-after-free"
    STALE_TLB = "stale-tlb"
    MEMORY_MAPPED = "memory-mapped"
    FREED_WHILE_RUNNING = "freed-while-running"
    LOST_REQUEST = "lost-request"
    STUCK = "stuck"


INVARIANT_OF_REJECT: Final[Mapping[str, Invariant]] = {
    RejectReason.FREED: Invariant.USE_AFTER_FREE,
    RejectReason.DOUBLE_FREE: Invariant.DOUBLE_FREE,
    RejectReason.VM_STATE_FREED: Invariant.VM_STATE_USED_AFTER_FREE,
}
"""Reject reason -> broken invariant; the reasons that are not here break none.

A fence that was not reached says only that somebody was slow, or gone; so does what nobody took.
"""

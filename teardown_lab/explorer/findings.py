"""What an exploration can find on a transition, told from effects and states; data."""

from dataclasses import dataclass
from typing import Final

from teardown_lab.checker.findings import HazardName
from vm_protocol.errors import RejectReason
from vm_protocol.invariants import INVARIANT_OF_REJECT

BY_REJECT: Final = {
    reason: INVARIANT_OF_REJECT[reason] for reason in (RejectReason.FREED, RejectReason.DOUBLE_FREE)
}
"""A command or completion that a core rejects; requests and reads are judged without asking it."""

UNFOUNDED: Final = "unfounded-reject"
"""A core rejects a request as an access to a freed vCPU, and it is none: a false alarm."""

UNACCOUNTED: Final = "unaccounted"
"""A request reaches others than the recipients that it names."""

DOUBTS: Final = frozenset({UNFOUNDED, UNACCOUNTED})
"""Findings that break no invariant, and keep an exploration from proving safety."""

OPEN_WINDOW: Final = HazardName.VISIBLE_WHILE_FREED
"""A step began while a freed vCPU was still visible."""

TO_NOBODY: Final = HazardName.FLUSH_TO_NOBODY
"""A TLB flush was raised that has no recipient."""

HAZARDS: Final = frozenset({OPEN_WINDOW, TO_NOBODY})
"""Findings that break nothing; what the checker calls a hazard is decided on their history."""


FLUSHED_LIVE: Final = "flush-reached-live-vcpu"
UNLOAD_FLUSHED: Final = "unload-flushed"
OVERLAPPED: Final = "destroys-overlapped"
"""Witnesses: what an exploration must have seen, if its ordering and scenario imply it."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A broken invariant; `late` tells of a request that was posted after the free it met.

    `vcpu` is -1 where an invariant is about none; `message` is the id of the message that was
    used, "" where there is none.
    """

    invariant: str
    vcpu: int
    late: bool = False
    message: str = ""

    @property
    def kind(self) -> tuple[str, int]:
        """Return what counts as the same finding: the invariant and the vCPU."""
        return self.invariant, self.vcpu

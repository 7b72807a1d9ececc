"""What an exploration can find on a transition, told from effects and states; data."""

from dataclasses import dataclass
from typing import Final

from vm_protocol.errors import RejectReason

BY_REJECT: Final[dict[RejectReason, str]] = {
    RejectReason.FREED: "use-after-free",
    RejectReason.DOUBLE_FREE: "double-free",
}
"""A command or completion that a core rejects; requests and reads are judged without asking it."""

UNFOUNDED: Final = "unfounded-reject"
"""A core rejects a request as an access to a freed vCPU, and it is none: a false alarm."""

UNACCOUNTED: Final = "unaccounted"
"""A request reaches others than the recipients that it names."""

DOUBTS: Final = frozenset({UNFOUNDED, UNACCOUNTED})
"""Findings that break no invariant, and keep an exploration from proving safety."""

OPEN_WINDOW: Final = "visible-while-freed"
"""A step began while a freed vCPU was still visible."""

TO_NOBODY: Final = "flush-to-nobody"
"""A TLB flush was raised that has no recipient."""

HAZARDS: Final = frozenset({OPEN_WINDOW, TO_NOBODY})
"""Findings that break nothing; what the checker calls a hazard is decided on their history."""


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

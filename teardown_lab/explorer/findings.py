"""What an exploration can find on a transition, told from effects and states; data."""

from dataclasses import dataclass
from typing import Final

from vm_protocol.errors import RejectReason

BY_REJECT: Final[dict[RejectReason, str]] = {
    RejectReason.FREED: "use-after-free",
    RejectReason.DOUBLE_FREE: "double-free",
    RejectReason.VM_STATE_FREED: "vm-state-used-after-free",
}
"""A command, completion or read that a core rejects; requests are judged without asking it."""


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

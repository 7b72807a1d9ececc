"""A VM as its manager sees it: the vCPU array, its roots, its teardown; pure values."""

from dataclasses import dataclass, field, replace
from typing import Literal

from immutables import Map

from vm_manager.memory import Pages
from vm_manager.roots import Root
from vm_protocol.effects import Effect
from vm_protocol.messages import UnloadDone
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox

Phase = Literal["creating", "running", "destroying", "freed", "stuck"]
Missing = frozenset[tuple[int, int]]
"""Acknowledgements that are waited for: (generation of the request, vCPU)."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One entry of the vCPU array.

    `present` is the entry itself, `bound` what a request reaches: behind a hole, with
    `array: stop-at-hole`, an entry is present and not bound. `routed` is the newest generation
    routed to the mailbox. `lost` with its worker: it is out of the array, and its mailbox is gone.
    """

    worker: str | None = None
    present: bool = True
    bound: bool = True
    routed: int = 0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class LoopProgress:
    """A pass over the array: vCPUs not yet begun, and (vCPU, part) of those in flight."""

    waiting: tuple[int, ...]
    running: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Teardown:
    """The teardown in progress: its ordering, the client, and the step it stands at."""

    ordering: Ordering
    command_id: str
    reply_to: str
    position: int = 0
    loop: LoopProgress | None = None


@dataclass(frozen=True, slots=True)
class FlushWait:
    """What goes on once the acknowledgements that are `missing` are in.

    `pages` are freed then; `answer` is the UnloadDone that a worker waits for, to `reply_to`; a
    wait without one is that of the VM step that the teardown stands at.
    """

    missing: Missing
    pages: tuple[str, ...] = ()
    answer: UnloadDone | None = None
    reply_to: str | None = None


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM.

    `asked` counts the vCPUs, from the first on, that have a mailbox and whose placement was sent.
    `generation` is that of the newest request, `freed_state` what VM-level state is gone, `pages`
    the guest's memory that its owner has not got back. `background` tells whether the kvmclock
    ticker and the PIT are alive; `in_guest` are vCPUs that have not acknowledged any request that
    was waited for since they entered their guest.

    `leaving` are workers that have said that they are about to end.

    What may come twice and would do more the second time is remembered: `reads` are the touches of
    VM-level state that were granted, `zaps` the newest (attempt, roots left) of each place.
    """

    name: str
    incarnation: int
    scenario: Scenario
    reply_to: str
    create_id: str
    phase: Phase = "creating"
    slots: tuple[Slot, ...] = ()
    asked: int = 0
    roots: tuple[Root, ...] = ()
    pages: Pages = ()
    generation: int = 0
    background: bool = True
    freed_state: frozenset[str] = field(default_factory=frozenset)
    in_guest: frozenset[int] = field(default_factory=frozenset)
    waits: tuple[FlushWait, ...] = ()
    leaving: frozenset[str] = field(default_factory=frozenset)
    reads: frozenset[str] = field(default_factory=frozenset)
    zaps: Map[str, tuple[int, int]] = field(default_factory=Map)
    teardown: Teardown | None = None

    def visible(self) -> tuple[int, ...]:
        """Return the vCPUs that a request reaches, ascending."""
        return tuple(index for index, slot in enumerate(self.slots) if slot.bound)

    def mailbox(self, vcpu: int) -> Mailbox:
        """Return a vCPU's mailbox."""
        return Mailbox(self.name, vcpu, self.incarnation)

    def mailboxes(self) -> tuple[Mailbox, ...]:
        """Return the mailboxes that are there: all, once the VM is created, but of lost vCPUs."""
        slots = enumerate(self.slots[: self.asked])
        return tuple(self.mailbox(vcpu) for vcpu, slot in slots if not slot.lost)

    def is_step_waiting(self) -> bool:
        """Tell whether the VM step that the teardown stands at waits for a flush."""
        return any(wait.answer is None for wait in self.waits)

    def with_slot(self, vcpu: int, slot: Slot) -> "Vm":
        """Return the VM with one array entry replaced."""
        return replace(self, slots=(*self.slots[:vcpu], slot, *self.slots[vcpu + 1 :]))


VmStepped = tuple[Vm, tuple[Effect, ...]]
"""A VM after something was done to it, and the effects of that."""

"""One vCPU as its worker sees it: MMU contexts, mailbox progress, tombstone; pure values."""

from dataclasses import dataclass, replace

from vcpu_worker.waits import WAITS, End, Then, Wait
from vm_protocol.messages import DestroyVcpu, PlaceVcpu
from vm_protocol.topology import Mailbox

Contexts = tuple[tuple[str, ...], tuple[str, ...]]
NO_ROOTS: Contexts = ((), ())


@dataclass(frozen=True, slots=True)
class Running:
    """The command in progress.

    `waiting` says for what, or None while steps run. `fence` is the newest generation that a free
    must wait for; `attempt` counts zaps of the 2007 loop.
    """

    command: DestroyVcpu
    reply_to: str
    position: int = 0
    waiting: Wait | None = None
    fence: int = 0
    attempt: int = 1

    @property
    def awaited(self) -> int:
        """Return the generation up to which a free must have its mailbox consumed."""
        # An unload's generation is never older than its command's, and 0 where none was answered.
        return max(self.command.generation, self.fence)

    @property
    def message_id(self) -> str:
        """Return the id of the command."""
        return self.command.identity()

    @property
    def step_name(self) -> str:
        """Return the step that the command stands at."""
        return self.command.steps[self.position]

    def then(self, end: End) -> Then | None:
        """Return what is done when this happens, or None: the command waits for something else."""
        assert self.waiting is not None, "between two inputs, a running command waits"
        return WAITS[self.waiting].get(end)


@dataclass(frozen=True, slots=True)
class Vcpu:
    """A vCPU, live or freed; a freed one is its own tombstone.

    `accepted` once the manager has said that it is this worker's. `consumed` is the newest
    generation up to which every request of the mailbox was taken, `ahead` those taken beyond it.
    `faults` are pending async page faults, `completed` those that a message has completed.
    `tlb` holds the pages of the roots of a vCPU in guest until a flush arrives;
    one that is freed in its guest keeps both. `finished` maps commands to their outcomes.
    """

    mailbox: Mailbox
    contexts: Contexts
    faults: tuple[int, ...]
    nested: bool
    avic: bool
    fence_ms: int
    accepted: bool = False
    freed: bool = False
    completed: frozenset[int] = frozenset()
    consumed: int = 0
    ahead: frozenset[int] = frozenset()
    in_guest: bool = False
    tlb: tuple[str, ...] = ()
    running: Running | None = None
    finished: tuple[tuple[str, str], ...] = ()

    def has_consumed(self, generation: int) -> bool:
        """Tell whether the request of this generation was taken already."""
        return generation <= self.consumed or generation in self.ahead

    def consume(self, generation: int) -> "Vcpu":
        """Return the vCPU with a request posted: its generation is consumed."""
        # The bit itself is not kept: no vCPU enters its guest again during teardown and reads it.
        # Requests can come out of order: what lies beyond a gap counts once the gap is closed.
        consumed, ahead = self.consumed, self.ahead | {generation}
        while consumed + 1 in ahead:
            consumed += 1
            ahead -= {consumed}
        return replace(self, consumed=consumed, ahead=ahead)

    def outcome_of(self, message_id: str) -> str | None:
        """Return how a finished command ended, None when it is not finished."""
        return dict(self.finished).get(message_id)

    def finish(self, outcome: str) -> "Vcpu":
        """Return the vCPU with its running command finished."""
        assert self.running is not None, "only a running command finishes"
        finished = (*self.finished, (self.running.message_id, outcome))
        return replace(self, running=None, finished=finished)


def place(message: PlaceVcpu) -> Vcpu:
    """Return the vCPU that a placement describes."""
    return Vcpu(
        mailbox=Mailbox(message.vm, message.vcpu, message.incarnation),
        contexts=message.contexts,
        faults=tuple(range(message.async_pf)),
        nested=message.nested,
        avic=message.avic,
        fence_ms=message.fence_ms,
        in_guest=message.in_guest,
        tlb=tuple(sum(message.contexts, ())) if message.in_guest else (),
    )

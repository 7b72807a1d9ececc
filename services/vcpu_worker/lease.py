"""A worker's lease: it says that it lives, and knows when it was paused for too long; pure.

As long as a worker has vCPUs of a VM, tombstones included, it says so every ALIVE_MS. Whether the
VM's manager still counts on it, the manager decides, and takes the mailboxes of a lost worker away.
The worker itself notices only that it was stopped for all of LEASE_MS (SIGSTOP, a frozen
container): then the manager has gone on without it, and it must touch nothing that it had.
See docs/decisions/0035-leases.md.
"""

from collections.abc import Iterable, Mapping

from vcpu_worker import commands
from vcpu_worker.steps import WorkerQueues
from vcpu_worker.vcpu import Vcpu
from vcpu_worker.waits import End
from vm_protocol import limits, messages, topology
from vm_protocol.effects import CancelTimer, Effect, Publish, SetTimer, observed
from vm_protocol.observations import Event
from vm_protocol.timers import TimerKind
from vm_protocol.topology import Mailbox


def begun(worker: str) -> tuple[Effect, ...]:
    """Return what the first vCPU brings, and each word after it."""
    return (
        SetTimer(TimerKind.ALIVE.of(worker), limits.ALIVE_MS),
        # Urgent: after a pause it comes before all that has arrived, and before the next word.
        SetTimer(TimerKind.LAPSE.of(worker), limits.LEASE_MS, urgent=True),
    )


def ended(worker: str) -> tuple[Effect, ...]:
    """Return what follows when there is no vCPU left: an idle worker has nothing to say."""
    return tuple(CancelTimer(kind.of(worker)) for kind in (TimerKind.ALIVE, TimerKind.LAPSE))


def alive(worker: str, mailboxes: Iterable[Mailbox], number: int) -> tuple[Effect, ...]:
    """Say to each VM's manager that this worker lives."""
    said = (
        messages.WorkerAlive(vm=vm, incarnation=incarnation, worker=worker, number=number)
        for vm, incarnation in _lives(mailboxes)
    )
    return (*map(_to_manager, said), *begun(worker))


def leaving(worker: str, mailboxes: Iterable[Mailbox]) -> tuple[Effect, ...]:
    """Say to each VM's manager that this worker is about to end."""
    said = (
        messages.WorkerLeaving(vm=vm, incarnation=incarnation, worker=worker)
        for vm, incarnation in _lives(mailboxes)
    )
    return tuple(map(_to_manager, said))


def lapsed(vcpus: Mapping[Mailbox, Vcpu], queues: WorkerQueues) -> tuple[Effect, ...]:
    """Drop every vCPU: say so for each VM, and give up the commands that waited."""
    effects: list[Effect] = []
    for vm, incarnation in _lives(vcpus):
        own = (each for each in vcpus if (each.vm, each.incarnation) == (vm, incarnation))
        dropped = tuple(sorted(each.vcpu for each in own))
        effects.append(observed(Event.HOST_LAPSED, vm, vcpus=dropped))
    for mailbox in sorted(vcpus, key=lambda each: each.name):
        effects += commands.end_wait(vcpus[mailbox], End.MAILBOX_GONE, queues).effects
    return tuple(effects)


def _lives(mailboxes: Iterable[Mailbox]) -> list[tuple[str, int]]:
    return sorted({(each.vm, each.incarnation) for each in mailboxes})


def _to_manager(message: messages.Message) -> Effect:
    return Publish(topology.REPLIES.name, topology.MANAGER_REPLIES_QUEUE.name, message)

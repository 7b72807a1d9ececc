"""Where the messages of a run's VM are, and who must be gone when nothing moves any more; pure.

Fed with the VM's records while the run goes on. When they stop coming, `queues` says which queues
to look at, and `missing` reads from what the broker tells who is gone: a worker without a consumer,
a mailbox that was removed or that nobody takes from, a request that its mailbox never got.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from teardown_lab.checker import shapes
from vm_protocol import topology
from vm_protocol.messages import CLOCK_UPDATE, REQUEST_TYPE_NAMES, SIGNS_OF_LIFE
from vm_protocol.observations import Event
from vm_protocol.topology import Mailbox, parse_mailbox
from vm_protocol.trust import worker_of
from vm_protocol.wire import Record

_BACKGROUND = ("ClockUpdate", *SIGNS_OF_LIFE)
"""Goes on for ever, whatever an ordering does: it is no sign that the teardown moves."""


class Seen(Protocol):
    """What a broker tells of a queue (broker.looking.QueueSeen)."""

    @property
    def ready_count(self) -> int:
        """Messages that nobody holds."""
        ...

    @property
    def consumer_count(self) -> int:
        """Consumers."""
        ...


class Whereabouts:
    """Follows one VM: the worker of each vCPU, who is freed, which requests are on their way.

    `own_workers` are the names of this run's own; None when the services run elsewhere.
    `progress` counts the records that show a teardown moving.
    """

    def __init__(self, vm: str, own_workers: tuple[str, ...] | None = None) -> None:
        self._vm = vm
        self._own = own_workers
        self._worker_of: dict[int, str] = {}
        self._freed: set[int] = set()
        self._awaited: dict[tuple[str, int], None] = {}
        self._early: set[tuple[str, int]] = set()
        self._ticks: set[str] = set()
        self.progress = 0

    def feed(self, record: Record) -> None:
        """Take the next record of the VM."""
        vcpu = record.vcpu
        match record.event:
            case Event.VCPU_CREATED if vcpu is not None and (worker := worker_of(record.actor)):
                self._worker_of[vcpu] = worker
            case Event.VCPU_FREED if vcpu is not None:
                self._freed.add(vcpu)
            case Event.HOST_LOST:
                self._freed.update(shapes.numbers(record, "vcpus"))
            case Event.MESSAGE_SENT:
                self._sent(record)
            case Event.MESSAGE_RECEIVED:
                self._arrived(record)
            case _:
                pass
        self.progress += not self._is_tick(record)

    def _is_tick(self, record: Record) -> bool:
        if (record.message_id or record.caused_by) in self._ticks:
            return True
        is_word = shapes.text(record, "type") in SIGNS_OF_LIFE
        return is_word or shapes.text(record, "kind") == CLOCK_UPDATE

    def _sent(self, record: Record) -> None:
        name = shapes.text(record, "type")
        message_id = record.message_id or ""
        if name in _BACKGROUND:
            self._ticks.add(message_id)
        elif name in REQUEST_TYPE_NAMES:
            for vcpu in shapes.body(record).numbers("recipients"):
                if (message_id, vcpu) not in self._early:
                    self._awaited[message_id, vcpu] = None

    def _arrived(self, record: Record) -> None:
        mailbox = parse_mailbox(shapes.text(record, "queue"))
        if mailbox is not None:
            key = (record.message_id or "", mailbox.vcpu)
            if self._awaited.pop(key, key) is not None:
                self._early.add(key)

    # --- when nothing moves ----------------------------------------------------------------------

    def queues(self) -> tuple[str, ...]:
        """Return the queues that show who is gone, those of the living vCPUs last."""
        workers = (topology.worker_commands(each).name for each in self._workers())
        shared = (topology.MANAGER_COMMANDS_QUEUE.name, topology.MANAGER_REPLIES_QUEUE.name)
        return (*shared, *workers, *(self._mailbox(vcpu) for vcpu in self._living()))

    def missing(self, seen: Mapping[str, Seen | None]) -> tuple[str, ...]:
        """Return who or what is gone, a sentence without its full stop each."""
        gone = [*self._managers(seen)]
        lost_workers: set[str] = set()
        for worker in self._workers():
            told = self._worker(seen, worker)
            if told:
                lost_workers.add(worker)
                gone.append(told)
        living = [each for each in self._living() if self._worker_of[each] not in lost_workers]
        for worker in self._workers():
            own = [vcpu for vcpu in living if self._worker_of[vcpu] == worker]
            unknown = [vcpu for vcpu in own if _is_unread(seen, self._mailbox(vcpu))]
            if unknown:
                gone.append(
                    f"worker {worker}{self._stranger(worker)} takes nothing from the mailboxes of "
                    f"{_some(unknown)} any more: it was restarted, and does not know them"
                )
        for vcpu in living:
            gone += self._vcpu(seen, vcpu)
        return tuple(gone)

    def is_without_manager(self, seen: Mapping[str, Seen | None]) -> bool:
        """Tell whether a manager is gone: only a manager gives lost workers up."""
        return any(self._managers(seen))

    def _managers(self, seen: Mapping[str, Seen | None]) -> Iterator[str]:
        name = topology.MANAGER_COMMANDS_QUEUE.name
        if _is_unread(seen, name):
            yield f"no vm-manager takes from {name}: it is gone, or has lost the broker"

    def _worker(self, seen: Mapping[str, Seen | None], worker: str) -> str:
        name = topology.worker_commands(worker).name
        held = [vcpu for vcpu in self._living() if self._worker_of[vcpu] == worker]
        whose = f"worker {worker}{self._stranger(worker)}, which has {_some(held)},"
        if name in seen and seen[name] is None:
            return f"{whose} has no queue {name} any more: it was removed; start the worker again"
        if _is_unread(seen, name):
            return f"{whose} takes no commands from {name}: it is gone, or has lost the broker"
        return ""

    def _stranger(self, worker: str) -> str:
        foreign = self._own is not None and worker not in self._own
        return " (not one of this run's own)" if foreign else ""

    def _vcpu(self, seen: Mapping[str, Seen | None], vcpu: int) -> Iterator[str]:
        name = self._mailbox(vcpu)
        if name not in seen:
            return
        told = seen[name]
        if told is None:
            yield f"the mailbox {name} of vCPU {vcpu} was removed"
        elif told.consumer_count and not told.ready_count:
            waiting = (message for message, owner in self._awaited if owner == vcpu)
            if message := next(waiting, None):
                yield (
                    f"{message} never came to {name}, which is empty: the binding of vCPU {vcpu} "
                    f"to {topology.REQUESTS.name} is missing"
                )

    def _workers(self) -> tuple[str, ...]:
        return tuple(sorted({self._worker_of[vcpu] for vcpu in self._living()}))

    def _living(self) -> list[int]:
        return sorted(self._worker_of.keys() - self._freed)

    def _mailbox(self, vcpu: int) -> str:
        return Mailbox(self._vm, vcpu).name


def _is_unread(seen: Mapping[str, Seen | None], name: str) -> bool:
    told = seen.get(name)
    return told is not None and not told.consumer_count


def _some(vcpus: list[int]) -> str:
    return f"vCPU {vcpus[0]}" + (f" and {len(vcpus) - 1} more" if len(vcpus) > 1 else "")

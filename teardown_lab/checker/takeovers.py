"""Take-overs: which manager followed which, and which records therefore count.

A manager that takes over says, for every VM that lives, which record of its predecessor's is the
first that does not count any more (`manager.took-over`). What the predecessor wrote from there on,
it wrote after it had lost its office, and what it sent then is rejected as `stale-epoch`. Neither
is evidence of the teardown: the successor has done the same in its own way.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from teardown_lab.checker import shapes
from vm_protocol.errors import RejectReason
from vm_protocol.observations import Event
from vm_protocol.trust import epoch_of, manager_actor
from vm_protocol.wire import Record

StaleReject = tuple[str, str]
"""(message id, queue)."""


@dataclass(frozen=True, slots=True)
class Successions:
    """Who took over from whom, by the names of managers.

    `ends` is the first number of each predecessor that does not count any more. `contradictions`
    say where nobody can tell who was in office.
    """

    predecessors: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
    contradictions: tuple[str, ...] = ()

    def counts(self, record: Record) -> bool:
        """Tell whether its writer was in office."""
        end = self.ends.get(record.actor)
        return end is None or record.seq < end

    def office(self, actor: str) -> str:
        """Return the first manager of those that followed each other; anybody else's own name.

        What they did is in one order: a manager takes over when it has read all of the log of the
        one before.
        """
        while actor in self.predecessors:
            actor = self.predecessors[actor]
        return actor


NO_SUCCESSIONS: Final = Successions()


def successions(records: Iterable[Record]) -> Successions:
    """Return who took over from whom in a history, whatever VM says so."""
    told = {
        (each.actor, shapes.number(each, "predecessor") or 0, shapes.number(each, "seq") or 0)
        for each in records
        if each.event is Event.MANAGER_TOOK_OVER
    }
    predecessors: dict[str, str] = {}
    ends: dict[str, int] = {}
    wrong: list[str] = []
    for actor, epoch, end in sorted(told):
        predecessor = manager_actor(epoch)
        if not 0 < epoch < (epoch_of(actor) or 0):
            wrong.append(f"{actor} says that it took over from {predecessor}")
        elif actor in predecessors:
            wrong.append(f"{actor} says twice, and differently, whom it took over from and when")
        elif predecessor in ends:
            wrong.append(f"{actor} took over from {predecessor}, as another manager did before")
        else:
            predecessors[actor], ends[predecessor] = predecessor, end
    return Successions(predecessors, ends, tuple(wrong)) if told else NO_SUCCESSIONS


def without_stale_deliveries(
    records: Sequence[Record],
) -> tuple[list[Record], frozenset[StaleReject]]:
    """Return one actor's records without deliveries that it rejected as `stale-epoch`, and those.

    The successor may have sent a message of the same id: its arrival is another one.
    """
    arrivals: dict[StaleReject, int] = {}
    left_out: set[int] = set()
    rejects: set[StaleReject] = set()
    for place, record in enumerate(records):
        delivery = (record.message_id or "", shapes.text(record, "queue"))
        if record.event is Event.MESSAGE_RECEIVED:
            arrivals[delivery] = place
        elif is_stale_reject(record):
            left_out |= {place, arrivals.pop(delivery, place)}
            rejects.add(delivery)
    return [each for place, each in enumerate(records) if place not in left_out], frozenset(rejects)


def is_stale_reject(record: Record) -> bool:
    """Tell whether a record is a reject of what a manager sent that had lost its office."""
    is_reject = record.event is Event.MESSAGE_REJECTED
    return is_reject and shapes.text(record, "reason") == RejectReason.STALE_EPOCH

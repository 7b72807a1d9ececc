"""Causal order: program order of each actor, plus sent -> received, as vector clocks.

Managers that took over from each other are one actor here: what the last one does comes after all
that counts of the ones before (takeovers.py).

A clock is kept as what an actor has seen of the others; it changes at receives only, so records
between two of them share one tuple. Nothing here compares pairs of records.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from teardown_lab.checker.takeovers import (
    StaleReject,
    Successions,
    successions,
    without_stale_deliveries,
)
from vm_protocol.observations import Event
from vm_protocol.trust import epoch_of
from vm_protocol.wire import Record


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A record in causal order.

    `index` counts the actor's records from 1, `seen[a]` is the newest index of actor `a` that
    this record can know of, `position` is a place in one total order that respects causality.
    """

    record: Record
    actor: int
    index: int
    seen: tuple[int, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """All moments, sorted; who wrote them; and what does not fit.

    `stale` are records of managers out of office, each once, and `stale_rejects` the deliveries
    that were rejected as theirs: they are no moments. `restarted` are actors whose numbers repeat
    with other content, `contradictions` the messages that were received before they can have been
    sent.
    """

    moments: tuple[Moment, ...]
    actors: tuple[str, ...]
    restarted: tuple[str, ...]
    contradictions: tuple[str, ...]
    successions: Successions
    stale: tuple[Record, ...]
    stale_rejects: frozenset[StaleReject]


def before(first: Moment, second: Moment) -> bool:
    """Return whether `first` happens before `second`; False for concurrent ones."""
    if first.actor == second.actor:
        return first.index < second.index
    # `seen` is what second's actor has learnt of first's, directly or by way of others.
    return second.seen[first.actor] >= first.index


def order(records: Sequence[Record]) -> Timeline:
    """Return the records in causal order, ties by Lamport time, actor and number."""
    known = successions(records)
    queues, stale, restarted = _queues(records, known)
    rejects: set[StaleReject] = set()
    if known.ends:
        for office, queue in queues.items():
            queues[office], found = without_stale_deliveries(queue)
            rejects |= found
    moments, contradictions = _Sorter(queues).run()
    return Timeline(
        moments,
        tuple(sorted({record.actor for queue in queues.values() for record in queue})),
        restarted,
        contradictions,
        known,
        stale,
        frozenset(rejects),
    )


def _queues(
    records: Sequence[Record], known: Successions
) -> tuple[dict[str, list[Record]], tuple[Record, ...], tuple[str, ...]]:
    """Return each actor's records by number, those out of office, and the actors that restarted.

    Repeated records stand there once.
    """
    found: dict[tuple[str, int], Record] = {}
    queues: dict[str, list[Record]] = {}
    stale: list[Record] = []
    restarted: set[str] = set()
    for record in records:
        earlier = found.get((record.actor, record.seq))
        # A service writes records again that had arrived: after a lost connection its own, and
        # after a take-over its predecessor's.
        if earlier == record:
            continue
        if earlier is not None and known.counts(record):
            # One number, two contents: the actor had two lives, whose records nobody can order.
            restarted.add(record.actor)
        found[record.actor, record.seq] = record
        if known.counts(record):
            queues.setdefault(known.office(record.actor), []).append(record)
        else:
            stale.append(record)
    lives = {known.office(actor) for actor in restarted}
    epochs = {actor: epoch_of(actor) or 0 for actor, _ in found}
    for office, queue in queues.items():
        if office not in lives:
            # Records written again stand late in the file; `seq` keeps the actor's own order.
            queue.sort(key=lambda record: (epochs[record.actor], record.seq))
    return queues, tuple(stale), tuple(sorted(restarted))


class _Sorter:
    """Merges the actors' queues; a receive waits until its message is sent."""

    def __init__(self, queues: dict[str, list[Record]]) -> None:
        self._names = sorted(queues)
        self._queues = [queues[name] for name in self._names]
        self._next = [0] * len(self._names)
        self._known: list[tuple[int, ...]] = [(0,) * len(self._names)] * len(self._names)
        self._is_sent = {
            record.message_id
            for queue in self._queues
            for record in queue
            if record.event is Event.MESSAGE_SENT
        }
        self._sent: dict[str | None, Moment] = {}
        self._waiting: dict[str | None, list[int]] = {}
        self._ready: list[tuple[int, int, int]] = []
        self._moments: list[Moment] = []

    def run(self) -> tuple[tuple[Moment, ...], tuple[str, ...]]:
        """Return the moments in order, and what was received before it can have been sent."""
        contradictions: list[str] = []
        for actor in range(len(self._names)):
            self._offer(actor)
        while self._ready or self._waiting:
            if not self._ready:
                # A cycle: all that is left waits for a message that can only be sent later.
                contradictions.append(self._force())
            _, actor, _ = heapq.heappop(self._ready)
            self._emit(actor)
            self._offer(actor)
        return tuple(self._moments), tuple(contradictions)

    def _offer(self, actor: int) -> None:
        """Make an actor's next record ready, or let it wait for its message."""
        if self._next[actor] == len(self._queues[actor]):
            return
        record = self._queues[actor][self._next[actor]]
        message = record.message_id
        if (
            # A receive waits for its sending, if the history has one.
            record.event is Event.MESSAGE_RECEIVED
            and message in self._is_sent
            and message not in self._sent
        ):
            self._waiting.setdefault(message, []).append(actor)
        else:
            self._push(actor)

    def _place(self, actor: int) -> tuple[int, int, int]:
        place = self._next[actor]
        return self._queues[actor][place].lamport, actor, place

    def _push(self, actor: int) -> None:
        heapq.heappush(self._ready, self._place(actor))

    def _force(self) -> str:
        """Break a cycle: release the earliest receive, whose message can only be sent later."""
        message = min(self._waiting, key=lambda each: min(map(self._place, self._waiting[each])))
        self._release(message)
        return str(message)

    def _release(self, message: str | None) -> None:
        for actor in self._waiting.pop(message, ()):
            self._push(actor)

    def _emit(self, actor: int) -> None:
        record = self._queues[actor][self._next[actor]]
        self._next[actor] += 1
        if record.event is Event.MESSAGE_RECEIVED:
            self._learn(actor, self._sent.get(record.message_id))
        moment = Moment(record, actor, self._next[actor], self._known[actor], len(self._moments))
        self._moments.append(moment)
        if record.event is Event.MESSAGE_SENT and record.message_id not in self._sent:
            self._sent[record.message_id] = moment
            self._release(record.message_id)

    def _learn(self, actor: int, sent: Moment | None) -> None:
        if sent is None or self._known[actor][sent.actor] >= sent.index:
            return
        # What the sender knew, the receiver knows from now on. Clocks grow in no other way.
        known = list(map(max, self._known[actor], sent.seen))
        known[sent.actor] = sent.index
        self._known[actor] = tuple(known)

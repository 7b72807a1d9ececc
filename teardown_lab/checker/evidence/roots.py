"""Holds the records of roots, pins and flushes against the derived table of roots.

Walks the manager's records of a lab's own file: its steps and the messages by which vCPUs give up
their roots drive the table, and what the table says must be what was recorded there.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.evidence.root_table import RootChange, RootTable, pin_name
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.happens_before import Moment, before
from teardown_lab.checker.hazards import HOST_LOST
from vm_protocol.messages import CLOCK_UPDATE, DROP_OBSOLETE_ROOTS, SCAN_IOAPIC, TLB_FLUSH
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

_GIVE_UP: Final = ("RootsReleased", "ZapRequested")
_RAISED_BY: Final = {
    TLB_FLUSH: ("unload", "zap-all", "flush-tlbs", HOST_LOST),
    DROP_OBSOLETE_ROOTS: ("zap-all",),
    SCAN_IOAPIC: ("pit",),
    CLOCK_UPDATE: ("ticker",),
}
_ENDS: Final = (Event.MESSAGE_RECEIVED, Event.STEP_STARTED, Event.STEP_FINISHED)


@dataclass(slots=True)
class ManagerTurn:
    """One handling by the manager: what its records must say, and what they do say."""

    place: str
    begun: Moment | None = None
    wanted: Counter[RootChange] = field(default_factory=Counter)
    said: Counter[RootChange] = field(default_factory=Counter)
    flushes: int = 0
    posts: int = 0
    by_zap: bool = False
    pinned: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OwedFlush:
    """An unload that dooms a root and raises no flush; `begun` is when the manager took it."""

    begun: Moment
    message_id: str


class RootsHeld:
    """The table and the records, turn by turn.

    `lacks_frees`: a root was freed and no record says so, so a record of another root's free may
    really be that one's.
    """

    def __init__(self, facts: Facts, scenario: Scenario) -> None:
        self.notes: list[str] = []
        self.owed: list[OwedFlush] = []
        self.lacks_frees = False
        self._facts = facts
        self._table = RootTable(scenario)
        self._names = frozenset(self._table.roots)
        self._actor = facts.manager()
        self._turn = ManagerTurn("its creation", wanted=Counter(self._table.begin()))
        for moment in facts.moments:
            if moment.actor == self._actor:
                self._take(moment)
        self._close()

    def _take(self, moment: Moment) -> None:
        record = moment.record
        change = change_of(record)
        if change is not None:
            self._turn.said[change] += 1
            self._cause(record)
        elif record.event is Event.PAGE_FREED:
            if shapes.text(record, "root") not in self._names:
                self.notes.append(f"page.freed names {shapes.text(record, 'root')!r}, no root")
        elif record.event is Event.REQUEST_POSTED:
            self._posted(record)
        elif record.event is Event.MESSAGE_SENT:
            if shapes.text(record, "type") == "DropObsoleteRoots":
                self._turn.dropped.append(shapes.body(record).text("root"))
        # A vCPU gives up roots: a new turn begins, so the one before is compared first.
        elif record.event is Event.MESSAGE_RECEIVED and self._is_give_up(record):
            self._close()
            self._give_up(moment)
        elif record.event is Event.HOST_LOST:
            self._close()
            self._lose(moment)
        elif record.event is Event.STEP_STARTED:
            self._close()
            self._step(moment)
        elif record.event in _ENDS and self._turn.place != "its creation":
            self._close()

    def _is_give_up(self, record: Record) -> bool:
        return self._facts.messages.types.get(record.message_id or "") in _GIVE_UP

    def _posted(self, record: Record) -> None:
        kind, by = shapes.text(record, "kind"), shapes.text(record, "by")
        if kind not in _RAISED_BY or by not in _RAISED_BY[kind]:
            self.notes.append(f"request.posted says that {by or 'nobody'} raised a {kind}")
        if kind == TLB_FLUSH or (self._turn.by_zap and kind == DROP_OBSOLETE_ROOTS):
            self._turn.posts += by != "flush-tlbs"

    def _cause(self, record: Record) -> None:
        """Note a pin that was dropped for another message than the one that is handled."""
        unpinned = record.event is Event.ROOT_UNPINNED
        is_others = (record.caused_by or "") != self._turn.place
        if unpinned and is_others and self._turn.begun is not None:
            self.notes.append(
                f"root.unpinned of {shapes.text(record, 'root')} names {record.caused_by}, but "
                f"{self._turn.place} was handled"
            )

    def _give_up(self, moment: Moment) -> None:
        message_id = moment.record.message_id or ""
        body = self._facts.messages.body(message_id)
        vcpu, contexts = body.number("vcpu"), body.texts_of_texts("contexts")
        if message_id not in self._facts.messages.sent or vcpu is None or contexts is None:
            self._turn = ManagerTurn(message_id)
            return
        if (message_id, vcpu) in self._facts.deliveries.rejected:
            self._turn = ManagerTurn(message_id)
            return
        self._turn = ManagerTurn(message_id, moment)
        if self._facts.messages.types[message_id] == "RootsReleased":
            changes, self._turn.flushes = self._table.unload(vcpu, contexts)
        else:
            changes = self._table.zap_until_empty(vcpu, contexts)
        self._turn.wanted = Counter(changes)

    def _lose(self, moment: Moment) -> None:
        """The pins of a lost host's vCPUs go by the rules of an unload."""
        self._turn = ManagerTurn(moment.record.caused_by or "", moment)
        for vcpu in shapes.numbers(moment.record, "vcpus"):
            every = tuple(self._table.roots)
            changes, flushes = self._table.unload(vcpu, (every, every), by=HOST_LOST)
            self._turn.wanted.update(changes)
            self._turn.flushes += flushes

    def _step(self, moment: Moment) -> None:
        name = shapes.text(moment.record, "name")
        self._turn = ManagerTurn(f"{name} (step {moment.record.step})", moment)
        if name == "zap_all_roots":
            changes, pinned, flushes = self._table.zap_all()
            self._turn.wanted, self._turn.flushes = Counter(changes), len(pinned) + flushes
            self._turn.pinned = pinned
            self._turn.by_zap = True
        elif name == "uninit_mmu":
            self._turn.wanted = Counter(self._table.uninit())

    def _close(self) -> None:
        """Compare what a turn's records say with what they must say."""
        turn, self._turn = self._turn, ManagerTurn("what followed")
        for change, times in sorted((turn.wanted - turn.said).items()):
            self.notes.append(_note(turn, change, times, "is not recorded"))
            self.lacks_frees |= change[0] == Event.ROOT_FREED
        for change, times in sorted((turn.said - turn.wanted).items()):
            self.notes.append(_note(turn, change, times, "has no reason in the history"))
        if turn.dropped and sorted(turn.dropped) != sorted(turn.pinned):
            self.notes.append(f"{turn.place} asked to drop other roots than those that are pinned")
        if turn.posts > turn.flushes:
            self.notes.append(f"{turn.place} raised {turn.posts} requests where it owed fewer")
        if turn.posts < turn.flushes and not self._published_by(turn):
            self._owe(turn)

    def _published_by(self, turn: ManagerTurn) -> bool:
        """Tell whether a request without its post was sent in this turn: that is noted already."""
        return any(
            self._facts.messages.kind(message_id) and message_id not in self._facts.requests.post_of
            for message_id in self._facts.messages.sent
        )

    def _owe(self, turn: ManagerTurn) -> None:
        begun, facts = turn.begun, self._facts
        nobody = begun is not None and all(
            vcpu in facts.array.erased and before(facts.array.erased[vcpu], begun)
            for vcpu in facts.array.visible
        )
        if turn.by_zap or turn.begun is None or nobody:
            self.notes.append(f"{turn.place} raised {turn.posts} of {turn.flushes} requests")
        else:
            self.owed.append(OwedFlush(turn.begun, turn.place))


def _note(turn: ManagerTurn, change: RootChange, times: int, what: str) -> str:
    event, root, *rest = change
    detail = f" ({', '.join(each for each in rest if each)})" if any(rest) else ""
    again = f" {times} times" if times > 1 else ""
    return f"{event} of {root}{detail} at {turn.place} {what}{again}"


def change_of(record: Record) -> RootChange | None:
    """Return what a record says of a root, None when it says nothing of one."""
    root = shapes.text(record, "root")
    match record.event:
        case Event.ROOT_ALLOCATED:
            return record.event, root, shapes.text(record, "mmu")
        case Event.ROOT_PINNED | Event.ROOT_UNPINNED:
            context, slot = shapes.number(record, "context"), shapes.number(record, "slot")
            return record.event, root, pin_name((record.vcpu or 0, context or 0, slot or 0))
        case Event.ROOT_INVALIDATED:
            return record.event, root
        case Event.ROOT_FREED:
            pins = ",".join(sorted(shapes.texts(record, "pins") or ()))
            return record.event, root, shapes.text(record, "by"), pins
    return None


def held(facts: Facts) -> RootsHeld | None:
    """Return the comparison, None where the history is not a lab's own or its scenario is none."""
    scenario = facts.scenario_read()
    if not facts.run.is_lab_file or scenario is None or facts.manager() is None:
        return None
    return RootsHeld(facts, scenario)

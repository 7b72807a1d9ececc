"""A counterexample told as deviations from first in, first out.

The schedule that was found is the shortest one, and leaves out everything that does not matter. A
person thinks in "everything in order, except for this one message". So the same violation is looked
for again in runs where few messages are held.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from teardown_lab.checker.findings import Violation
from teardown_lab.checker.judgement import Judgement
from teardown_lab.explorer.keys import parse_delivery_key
from teardown_lab.explorer.racing import Race, race_of
from teardown_lab.explorer.schedule import Schedule, Turn, turns
from teardown_lab.explorer.stage import Stage
from teardown_lab.explorer.strategy import Deadline, FindingKey
from vm_protocol.message_ids import name_in_vm
from vm_protocol.observations import Event

CANDIDATES_MAX: Final = 400
"""Single deviations that are tried before the shortest schedule is told as it is."""

_SHOWN_MAX: Final = 4
"""Deviations of one schedule that are told in words; all of them stand in the JSON object."""

_BEFORE: Final = "before its free and delivered after it"
_WINDOW: Final = "in the window between its free and its erase"
_AFTER: Final = "after its erase"
_LATE: Final = (_WINDOW, _AFTER)
"""When a request was posted that is a use-after-free."""

_ACTS: Final = {
    "copy": "a fault makes a copy of",
    "hold": "a fault holds back",
    "release": "what was held or copied is delivered,",
    "redeliver": "a lost connection brings back, after it is handled,",
    "lose": "a connection is lost:",
    "deadline": "a deadline passes:",
    "complete": "there completes",
    "supersede": "the manager is superseded and still handles",
    "drop": "there gets lost",
    "stale": "there arrives, sent by the superseded manager,",
}
"""What a schedule may do beside delivering, in words."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """`held` waits until `until` has been delivered; or the ticker fires right after `until`."""

    held: str
    until: str


@dataclass(slots=True)
class Told:
    """A schedule in words: the deviations with their steps, and where it parts from FIFO.

    `racing` are the keys of the use and of the delivery that frees, if nothing orders the two;
    `race` is the sentence about them.
    """

    text: str
    deviations: list[dict[str, Any]] = field(default_factory=list)
    racing: tuple[str, ...] = ()
    race: str = ""
    parts_at: dict[str, Any] | None = None


class _Run:
    """One run of the stage, first in, first out but for one deviation."""

    def __init__(self, schedule: Schedule, deviation: Deviation | None) -> None:
        self.stage = Stage(schedule)
        self.passed_over: int | None = None
        self._deviation = deviation
        self._go()

    def _go(self) -> None:
        stage, deviation = self.stage, self._deviation
        if deviation is None:
            stage.finish()
            return
        if deviation.held == "tick":
            while deviation.until not in stage.trace:
                parcel = stage.oldest()
                if parcel is None:
                    return
                stage.deliver(parcel)
            if stage.is_ticking():
                self.passed_over = len(stage.trace)
                stage.tick()
            stage.finish()
            return
        while deviation.until not in stage.trace:
            first = stage.oldest()
            parcel = stage.oldest(lambda each: each.key == deviation.held)
            if parcel is None:
                break
            if parcel is not first and self.passed_over is None:
                self.passed_over = len(stage.trace)
            stage.deliver(parcel)
        stage.finish()

    def violation(self, key: FindingKey) -> Violation | None:
        """Return the violation of this kind that the run ended in, if it did."""
        return violation_of(self.stage, key)


def violation_of(stage: Stage, key: FindingKey) -> Violation | None:
    """Return the violation of a kind in what a stage has recorded, by the same kind of post."""
    return violation_in(stage, stage.judgement(), key)


def violation_in(stage: Stage, judgement: Judgement, key: FindingKey) -> Violation | None:
    """Return the violation of a kind in a judgement of what a stage has recorded."""
    invariant, vcpu, is_late = key
    of_no_vcpu_first = sorted(judgement.violations, key=lambda each: each.vcpu is not None)
    for each in of_no_vcpu_first:
        about = -1 if each.vcpu is None else each.vcpu
        is_kind = str(each.invariant) == invariant and vcpu in (-1, about)
        if is_kind and (_place(stage, each) in _LATE) == is_late:
            return each
    return None


def untold(schedule: Schedule) -> Told:
    """Return what can be said of a schedule without playing it again."""
    return Told(f"{len(schedule.path)} steps, not told in words: the search was stopped")


def tell(schedule: Schedule, key: FindingKey, deadline: Deadline) -> Told:
    """Return how a schedule that ends in this finding differs from first in, first out.

    Past the deadline the schedule is told as it was found, without looking for a plainer one.
    """
    found = Stage(schedule)
    for turn in turns(schedule.model(), schedule.path):
        found.take(turn)
    shortest = list(found.trace)
    found.finish()
    plain = _Run(schedule, None)
    violation = plain.violation(key)
    if violation is not None:
        used = _used(plain.stage, violation)
        text = f"no deviation: first in, first out ends like this; {used}"
        return _with_race(Told(text), plain.stage, violation)
    for deviation in _candidates(found, plain.stage, shortest):
        if deadline.is_over:
            break
        run = _Run(schedule, deviation)
        violation = run.violation(key)
        if violation is not None and run.passed_over is not None:
            return _told(run, plain.stage.trace, deviation, violation)
    told = _told_as_it_is(schedule, found, shortest, plain.stage.trace)
    violation = violation_of(found, key)
    if violation is None:
        return told
    told.text += f"; {_used(found, violation)}"
    return _with_race(told, found, violation)


def _with_race(told: Told, stage: Stage, violation: Violation) -> Told:
    race = race_of(stage.records, violation) or Race()
    told.racing, told.race = race.keys, race.text
    return told


def _candidates(found: Stage, passing: Stage, shortest: list[str]) -> Iterator[Deviation]:
    """Yield single deviations, likely ones first: what the found schedule turned around."""
    plain = passing.trace
    triggers = [
        name_in_vm(record.caused_by)
        for record in (*passing.records, *found.records)
        if record.event == Event.VCPU_FREED
    ]
    if "tick" in found.trace:
        for trigger in triggers:
            yield Deviation("tick", trigger)
        for before in plain:
            yield Deviation("tick", before)
    place = {key: number for number, key in enumerate(shortest)}
    rank = {key: number for number, key in enumerate(plain)}
    yielded = 0
    for until in [*triggers, *shortest]:
        for held in plain:
            late = place.get(held, len(shortest)) > place.get(until, len(shortest))
            if late and rank.get(held, 0) < rank.get(until, 0):
                yield Deviation(held, until)
                yielded += 1
                if yielded >= CANDIDATES_MAX:
                    return


def _place(stage: Stage, violation: Violation) -> str:
    """Return when a request that broke something was posted, by the history's order."""
    places: dict[Event, int] = {}
    for number, record in enumerate(stage.records):
        is_post = record.message_id == violation.message_id
        is_about = (
            is_post if record.event == Event.REQUEST_POSTED else record.vcpu == violation.vcpu
        )
        if is_about:
            places.setdefault(record.event, number)
    freed, posted = places.get(Event.VCPU_FREED), places.get(Event.REQUEST_POSTED)
    if freed is None or posted is None:
        return ""
    if posted < freed:
        return _BEFORE
    return _WINDOW if posted < places.get(Event.VCPU_ERASED, len(stage.records)) else _AFTER


def _used(stage: Stage, violation: Violation) -> str:
    """Return what was broken, and for a request when it was posted."""
    about = "" if violation.vcpu is None else f" of vCPU {violation.vcpu}"
    place = _place(stage, violation)
    return f"{violation.invariant}{about}" + (f", posted {place}" if place else "")


def _told(run: _Run, plain: list[str], deviation: Deviation, violation: Violation) -> Told:
    trace = run.stage.trace
    first = (run.passed_over or 0) + 1
    held = deviation.held
    if held == "tick":
        text = f"first in, first out, but the ticker fires at step {first}, "
        text += f"right after {deviation.until}"
        last = first
    else:
        last = trace.index(held) + 1 if held in trace else len(trace)
        text = (
            f"first in, first out, but {_called(run.stage, held)} is overtaken by "
            f"{deviation.until}: it waits from step {first} to step {last}"
        )
    used = _used(run.stage, violation)
    entry = {"held": held, "until": deviation.until, "from_step": first, "to_step": last}
    told = Told(f"{text}; {used}", [entry], parts_at=_parting(trace, plain))
    return _with_race(told, run.stage, violation)


def _called(stage: Stage, key: str) -> str:
    """Return a delivery's key; a request's with its type, as the key does not tell it."""
    message = parse_delivery_key(key).name
    if not message.startswith("request/"):
        return key
    sent = (
        str(record.details.get("type"))
        for record in stage.records
        if record.event == Event.MESSAGE_SENT and name_in_vm(record.message_id) == message
    )
    return f"{next(sent, 'message')} {key}"


def _told_as_it_is(schedule: Schedule, found: Stage, shortest: list[str], plain: list[str]) -> Told:
    """Tell the shortest schedule itself: the steps at which it did not take the oldest."""
    stage = Stage(schedule)
    deviations: list[dict[str, Any]] = []
    words: list[str] = []
    for number, turn in enumerate(turns(schedule.model(), schedule.path)):
        oldest = stage.oldest()
        is_in_order = oldest is not None and turn == Turn("deliver", oldest.key)
        if oldest is not None and not is_in_order:
            did = turn.key if turn.act == "deliver" else f"{turn.act} {turn.key}"
            did += f", crash with {turn.crashed.text}" if turn.crashed else ""
            deviations.append({"step": number + 1, "did": did, "instead_of": oldest.key})
            words.append(f"at step {number + 1} {_in_words(found, turn, oldest.key)}")
        stage.take(turn)
    return Told(_first_of(words), deviations, parts_at=_parting(shortest, plain))


def _in_words(stage: Stage, turn: Turn, oldest: str) -> str:
    """Return what a turn does in place of delivering the oldest."""
    done, missed = _called(stage, turn.key), _called(stage, oldest)
    if turn.crashed is not None:
        early = "" if turn.key == oldest else f", before {missed} comes"
        return f"the manager crashes after it has logged {done}, {turn.crashed.text}{early}"
    if turn.act == "crash":
        return f"the manager crashes before it has logged anything more, and before {missed} comes"
    if turn.act == "deliver":
        return f"{done} overtakes {missed}"
    return f"{_ACTS.get(turn.act, turn.act)} {done}, before {missed} comes"


def _first_of(words: list[str]) -> str:
    """Return the first deviations, one after the other."""
    parts = words[:_SHOWN_MAX]
    if len(words) > _SHOWN_MAX:
        parts.append(f"{len(words) - _SHOWN_MAX} more like these (--json has them all)")
    return "first in, first out, but " + "; ".join(parts)


def _parting(trace: list[str], plain: list[str]) -> dict[str, Any] | None:
    """Return the first event at which a schedule parts from the passing one."""
    for number, (here, there) in enumerate(zip(trace, plain, strict=False)):
        if here != there:
            return {"step": number + 1, "here": here, "passing": there}
    return None

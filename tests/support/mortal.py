"""A manager's actor that dies and is succeeded, in memory; its log and the fold are real."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vm_protocol import progress
from vm_protocol.actor import Actor, Plan
from vm_protocol.effects import Input, Started, TookOver
from vm_protocol.intake import Delivery
from vm_protocol.progress import Arrival, Delivered, Elected, Happened, LogEntry, read_log_message
from vm_protocol.recorder import Cause
from vm_protocol.recovery import Recovery


class Mortal:
    """Writes a log as the driver does; after each of the inputs in `deaths` a successor folds it.

    `deaths` maps the number of an input to (how many of its actions were performed before the
    death, how many entries before it nobody has noted as performed).
    """

    def __init__(self, actor: Actor[Any], deaths: dict[int, tuple[int, int]]) -> None:
        self.actor = actor
        self.core = actor.core
        self.log: list[bytes] = []
        self.successions = 0
        self._deaths = deaths
        self._input_count = 0
        self._recent: deque[Plan] = deque(maxlen=8)
        self._alive_from = 0
        self._alive = progress.NOWHERE
        self._elect()

    @property
    def state(self) -> Any:
        return self.actor.state

    def deliver(self, delivery: Delivery, at_ns: int) -> Plan:
        return self._take(Delivered(delivery, at_ns))

    def handle(self, event: Input, cause: Cause, at_ns: int) -> Plan:
        return self._take(Happened(event, at_ns, cause))

    # --- the log -------------------------------------------------------------------------------

    def _append(self, message: Elected | LogEntry) -> None:
        self.log.append(message.model_dump_json(exclude_none=True).encode())

    def _elect(self) -> Recovery:
        """Write Elected, and fold the log up to there."""
        self._elected_at = len(self.log)
        self._append(Elected(candidate="next", alive_from=self._alive_from, alive=self._alive))
        recovery = Recovery(self.actor, self._alive_from, self._alive)
        for offset in range(self._alive_from, len(self.log)):
            recovery.begins(offset)
            recovery.read(offset, read_log_message(self.log[offset]))
        self.epoch, self._number = recovery.epoch, 0
        return recovery

    def _take(self, arrival: Arrival) -> Plan:
        self._input_count += 1
        performed, lag = self._deaths.pop(self._input_count, (-1, 0))
        plan = self._step(arrival, lag)
        return plan if performed < 0 else self._die(plan, performed, arrival.at_ns)

    def _step(self, arrival: Arrival, lag: int) -> Plan:
        self._number += 1
        recorder = self.actor.recorder
        recorder.entry = self._number
        if self.actor.is_as_new:
            self._alive_from = self._elected_at + self._number
            self._alive = (self.epoch, self._number)
        seq, lamport = recorder.position
        self._append(
            LogEntry(
                epoch=self.epoch, number=self._number, seq=seq, lamport=lamport,
                performed=(self.epoch, max(0, self._number - 1 - lag)),
                alive_from=self._alive_from, alive=self._alive, inputs=(progress.logged(arrival),),
            )
        )  # fmt: skip
        plan = progress.step(self.actor, arrival)
        self._recent.append(plan)
        return plan

    # --- death ---------------------------------------------------------------------------------

    def _die(self, plan: Plan, performed: int, at_ns: int) -> Plan:
        """Return what both managers together do: a part of the plan, and all of it again."""
        self.successions += 1
        before = (self.actor.state, self.actor.recorder.position[1])
        recovery = self._elect()
        assert self.actor.state == before[0], "the fold is not the state"
        assert self.actor.recorder.position == (0, before[1])
        again = [each for pending in recovery.pending for each in pending.plans]
        known = list(self._recent)[-len(again) :] if again else []
        assert _told(again) == _told(known), "what is performed again is not what was performed"
        begun = [*again]
        self._recent.clear()
        epoch, entry, seq = recovery.ended[-1]
        for event in (TookOver(epoch, entry, seq, len(again)), Started()):
            begun.append(self._step(Happened(event, at_ns), 0))
        return _joined(plan, performed, begun)


def _told(plans: Sequence[Plan]) -> list[Plan]:
    """Return plans without the epochs that messages name: a cut log may know fewer of them."""
    return [
        replace(plan, actions=tuple(_without_ended(action) for action in plan.actions))
        for plan in plans
    ]


def _without_ended(action: Any) -> Any:
    envelope = getattr(action, "envelope", None)
    if envelope is None:
        return action
    return replace(action, envelope=envelope.model_copy(update={"ended": None}))


def _joined(plan: Plan, performed: int, begun: Sequence[Plan]) -> Plan:
    actions = plan.actions[:performed]
    records = plan.records[:performed]
    for each in begun:
        actions += each.actions
        records += each.records
    return Plan(records, actions, plan.cause, plan.key)

"""One actor, two drivers: a core with its state and its recorder.

Both drivers hand every delivery, timer and return to an Actor and then perform its plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

from vm_protocol import intake
from vm_protocol.effects import (
    Ack,
    Core,
    CoreState,
    Deed,
    Effect,
    Input,
    Observed,
    Publish,
    Received,
    Reject,
    Returned,
    Settle,
)
from vm_protocol.errors import RemoteProtocolError
from vm_protocol.intake import Delivery
from vm_protocol.messages import REQUEST_TYPES
from vm_protocol.observations import Event
from vm_protocol.recorder import NO_CAUSE, Cause, Recorder, Send, cause_of
from vm_protocol.topology import parse_mailbox
from vm_protocol.trust import ANYBODY, Trust
from vm_protocol.wire import Record

Action = Send | Settle | Deed


@dataclass(frozen=True, slots=True)
class Plan:
    """What one handler asks for: records first, then actions, in order.

    `key` names the delivery that was handled: Ack and Reject refer to (queue, key).
    """

    records: tuple[Record, ...] = ()
    actions: tuple[Action, ...] = ()
    cause: Cause = NO_CAUSE
    key: str = ""


class Actor(Generic[CoreState]):
    """A core with its state and its recorder.

    The core never sees journal records of the events in `skip`, and nothing that `trust` finds to
    be forged.
    """

    def __init__(
        self,
        core: Core[CoreState],
        epoch: int = 0,
        skip: frozenset[Event] = frozenset(),
        trust: Trust = ANYBODY,
    ) -> None:
        self.core = core
        self.skip = skip
        self.trust = trust
        self.state = core.initial()
        self.recorder = Recorder(core.actor, epoch)

    def begin_anew(self) -> None:
        """Forget everything: a manager that takes over learns it from the log."""
        self.state = self.core.initial()
        self.recorder = Recorder(self.core.actor, self.recorder.epoch)

    @property
    def is_as_new(self) -> bool:
        """Tell whether the state is that of the beginning."""
        return bool(self.state == self.core.initial())

    def deliver(self, delivery: Delivery, at_ns: int) -> Plan:
        """Take a delivery: decode it, step the core, and return the plan.

        A delivery that is no message of the protocol, or is forged, is rejected with its reason. In
        the journal and among the dead letters a reject would lead nowhere: there it is
        acknowledged, and a record says that it was skipped.
        """
        try:
            if intake.is_journal(delivery.queue):
                batch = intake.read_journal(delivery, self.skip, self.trust)
                return self._special(batch, delivery, at_ns)
            if intake.is_dead_letters(delivery.queue):
                letter = intake.read_dead_letter(delivery, _key(delivery), self.trust)
                return self._special(letter, delivery, at_ns)
            received, envelope = intake.read_message(delivery, self.trust)
        except RemoteProtocolError as error:
            return self._refuse(delivery, error, at_ns)
        cause = cause_of(envelope, received.message.type)
        return self.handle(received, cause, at_ns, key=envelope.message_id)

    def handle(self, event: Input, cause: Cause, at_ns: int, key: str = "") -> Plan:
        """Step the core with any input and return the plan of records and actions."""
        records: list[Record] = []
        if isinstance(event, Received):
            # Comes first, so that all records of this handler are later than the sending.
            self.recorder.witness(cause.lamport)
            records.append(self._received(event, at_ns, cause))
        elif isinstance(event, Returned):
            records.append(self._returned(event, at_ns, cause))
        self.state, effects = self.core.step(self.state, event)
        return self.plan(effects, cause, at_ns, key, records)

    def plan(
        self,
        effects: tuple[Effect, ...],
        cause: Cause,
        at_ns: int,
        key: str = "",
        before: Sequence[Record] = (),
    ) -> Plan:
        """Return the plan of what a step asked for; the records of `before` come first."""
        records = list(before)
        actions: list[Action] = []
        for effect in effects:
            action, record = self._act(effect, at_ns, cause)
            if action is not None:
                actions.append(action)
            if record is not None:
                records.append(record)
        return Plan(tuple(records), tuple(actions), cause, key)

    def _special(self, event: Input, delivery: Delivery, at_ns: int) -> Plan:
        """Handle a journal batch, acknowledged by the driver's plan, or a dead letter."""
        key = _key(delivery)
        plan = self.handle(event, NO_CAUSE, at_ns, key)
        if not intake.is_journal(delivery.queue):
            return plan
        # A stream wants acks only for its flow control, so cores need not ask for them.
        return Plan(plan.records, (*plan.actions, Ack(delivery.queue, key)), NO_CAUSE, key)

    def _refuse(self, delivery: Delivery, error: RemoteProtocolError, at_ns: int) -> Plan:
        key = _key(delivery)
        mailbox = parse_mailbox(delivery.queue)
        details: dict[str, Any] = {"queue": delivery.queue, "place": error.place}
        skipped = intake.is_journal(delivery.queue) or intake.is_dead_letters(delivery.queue)
        event = Event.MESSAGE_SKIPPED if skipped else Event.MESSAGE_REJECTED
        if not skipped:
            details |= {"reason": str(error.reason), "requeue": False}
        record = self.recorder.record(
            event,
            at_ns,
            NO_CAUSE,
            vm=mailbox.vm if mailbox else None,
            vcpu=mailbox.vcpu if mailbox else None,
            details=details,
        )
        settle = Ack(delivery.queue, key) if skipped else Reject(delivery.queue, key, error.reason)
        return Plan((record,), (settle,), NO_CAUSE, key)

    def _act(self, effect: Effect, at_ns: int, cause: Cause) -> tuple[Action | None, Record | None]:
        if isinstance(effect, Publish):
            return self.recorder.send(effect, at_ns, cause)
        if isinstance(effect, Settle):
            letter = intake.is_dead_letters(effect.queue)
            return effect, None if letter else self.recorder.settled(effect, at_ns, cause)
        if isinstance(effect, Observed):
            return None, self.recorder.observed(effect, at_ns, cause)
        return effect, None

    def _received(self, event: Received, at_ns: int, cause: Cause) -> Record:
        mailbox = parse_mailbox(event.queue)
        details: dict[str, Any] = {
            "type": event.message.type,
            "queue": event.queue,
            "redelivered": event.redelivered,
        }
        if isinstance(event.message, REQUEST_TYPES):
            details["generation"] = event.message.generation
        return self.recorder.record(
            Event.MESSAGE_RECEIVED,
            at_ns,
            cause,
            vm=mailbox.vm if mailbox else event.message.vm,
            vcpu=mailbox.vcpu if mailbox else getattr(event.message, "vcpu", None),
            message_id=event.message_id,
            details=details,
        )

    def _returned(self, event: Returned, at_ns: int, cause: Cause) -> Record:
        return self.recorder.record(
            Event.MESSAGE_RETURNED,
            at_ns,
            cause,
            vm=event.message.vm,
            message_id=event.message.identity(),
            details={"type": event.message.type},
        )


def _key(delivery: Delivery) -> str:
    """Return a key for a delivery whose own id is not to be trusted."""
    return f"delivery:{delivery.number}"

"""A monitor, with the letters and the records of the journal that a test gives it."""

from itertools import count

from support.cores import Stepper, said
from support.samples import SAMPLES
from vm_manager import DeadLetterMonitor, MonitorState
from vm_protocol.effects import DeadLettered, JournalRead
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.wire import Record

LETTERS = "teardown.dead-letters"
WORKER = "worker.w.commands"
MAILBOX = "vcpu.vm-7.3.2"
COMMAND = SAMPLES["DestroyVcpu"]
FLUSH = SAMPLES["TlbFlush"]


def letter(
    message: Message | None,
    reason: str = "rejected",
    queue: str = MAILBOX,
    key: str = "delivery:1",
    *,
    wrong: str | None = None,
    sender: str = "manager.1",
    redelivered: bool = False,
) -> DeadLettered:
    return DeadLettered(
        letter=key,
        reason=reason,
        queue=queue,
        message_id=message.identity() if message else "",
        message=message,
        wrong=wrong,
        redelivered=redelivered,
        sender=sender,
    )


NUMBERS = count()


def record(event: Event, actor: str = "worker.w", **fields: object) -> Record:
    known = {"seq": next(NUMBERS), "actor": actor, "event": event, "lamport": 0, "at_ns": 0}
    return Record.model_validate(known | {"vm": "vm-7"} | fields)


def sending(
    message: Message, caused_by: str | None = None, to: tuple[str, str] = ("commands", WORKER)
) -> Record:
    """Return the record of a message's sending, to an exchange and key."""
    details = {
        "type": message.type,
        "exchange": to[0],
        "routing_key": to[1],
        "body": message.model_dump(mode="json"),
        "reply_to": "manager.replies",
    }
    return record(
        Event.MESSAGE_SENT,
        "manager.1",
        message_id=message.identity(),
        caused_by=caused_by,
        details=details,
    )


def reject(message: Message, reason: str, queue: str = MAILBOX, *, requeue: bool = False) -> Record:
    details = {"queue": queue, "reason": reason, "requeue": requeue}
    return record(Event.MESSAGE_REJECTED, message_id=message.identity(), details=details)


def life(event: Event, caused_by: str) -> Record:
    return record(event, vcpu=3, caused_by=caused_by)


def arrival(key: str = "delivery:1", actor: str = "monitor", **fields: object) -> Record:
    return record(Event.DEAD_LETTER_ARRIVED, actor, details={"letter": key}, **fields)


def told(dead: DeadLettered, actor: str = "monitor.other") -> Record:
    details = {"queue": dead.queue, "reason": dead.reason}
    return record(Event.DEAD_LETTER_CLASSIFIED, actor, message_id=dead.message_id, details=details)


class MonitorBench(Stepper[MonitorState]):
    def __init__(self, *records: Record) -> None:
        super().__init__(DeadLetterMonitor())
        self.read(*records)

    def read(self, *records: Record) -> list[object]:
        return list(self.step(JournalRead(records)))

    def classes(self, *dead: DeadLettered) -> list[tuple[str | None, str]]:
        """Return invariant and reason of letters that are classified at once."""
        effects = [effect for each in dead for effect in self.step(each)]
        return [(each["invariant"], each["why"]) for each in said(effects)]

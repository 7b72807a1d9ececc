"""Whether each message is one of the protocol, and whether its records agree about it.

A lab's own file has every message with its whole body, so it is read as the services read it:
type, fields, and the id that is formed from them.
"""

import json
from collections.abc import Iterator

from pydantic import ValidationError

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.happens_before import Moment
from vm_protocol.messages import MESSAGES
from vm_protocol.observations import Event
from vm_protocol.topology import parse_mailbox
from vm_protocol.wire import Record


class Wrong:
    """Messages whose records contradict each other, and the notes that say so."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.messages: set[str] = set()
        self.notes: list[str] = []
        for moment in facts.moments:
            problem = self._problem(moment)
            if problem is not None:
                record = moment.record
                self.messages.add(record.message_id or record.caused_by or "")
                self.notes.append(problem)

    def _problem(self, moment: Moment) -> str | None:
        record = moment.record
        match record.event:
            case Event.MESSAGE_SENT:
                return sent_problem(record) if self._facts.run.is_lab_file else None
            case Event.MESSAGE_RECEIVED:
                return self._type_differs(record) or self._place_differs(record)
            case Event.MESSAGE_ACKED | Event.MESSAGE_REJECTED:
                return self._type_differs(record) or self._place_differs(record)
            case Event.REQUEST_DELIVERED | Event.REQUEST_DUPLICATED:
                return self._delivery_differs(record)
        return None

    def _type_differs(self, record: Record) -> str | None:
        known = self._facts.messages.sent.get(record.message_id or "")
        said = record.details.get("type")
        if known is None or said is None or said == shapes.text(known.record, "type"):
            return None
        own = shapes.text(known.record, "type")
        return f"{record.message_id} was sent as {own}, but {record.event} says {said}"

    def _place_differs(self, record: Record) -> str | None:
        """Return where a record's vCPU is not the one of its mailbox or message."""
        queue = shapes.text(record, "queue")
        mailbox = parse_mailbox(queue)
        message = record.message_id or ""
        if record.event is Event.MESSAGE_RECEIVED and self._facts.messages.kind(message):
            generation = self._facts.messages.body(message).number("generation")
            said = shapes.number(record, "generation")
            is_known = message in self._facts.messages.sent and self._facts.run.is_lab_file
            if is_known and said != generation:
                return f"{message} was received as generation {said}, and sent as {generation}"
        if mailbox is not None:
            if record.vcpu not in (None, mailbox.vcpu) or mailbox.vm != self._facts.vm:
                return f"{record.event} of {message} in {queue} names vCPU {record.vcpu}"
            return None
        if self._facts.messages.is_request(message) and message in self._facts.messages.sent:
            return f"{record.event} says that request {message} came from {queue}, no mailbox"
        own = self._facts.messages.vcpu_of.get(message)
        if None not in (record.vcpu, own) and record.vcpu != own:
            return f"{message} is for vCPU {own}, but {record.event} names vCPU {record.vcpu}"
        return None

    def _delivery_differs(self, record: Record) -> str | None:
        message = record.message_id or record.caused_by or ""
        body = self._facts.messages.body(message)
        generation = shapes.number(record, "generation")
        kind = shapes.text(record, "kind")
        if message not in self._facts.messages.sent:
            return None
        if kind != self._facts.messages.kind(message) or generation != body.number("generation"):
            return f"{record.event} calls {message} a {kind} of generation {generation}"
        if (message, record.vcpu) not in self._facts.deliveries.taken:
            return f"{message} was never received for vCPU {record.vcpu}, which {record.event} says"
        return None


def sent_problem(record: Record) -> str | None:
    """Return why a sent message is none of the protocol, None when it is."""
    body = shapes.mapping(record, "body")
    try:
        message = MESSAGES.validate_json(json.dumps(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"the body of {record.message_id} is no message: {where}: {first['msg']}"
    if message.type != shapes.text(record, "type") or message.identity() != record.message_id:
        return f"the body of {record.message_id} is that of {message.type} {message.identity()}"
    if message.vm != record.vm or getattr(message, "vcpu", None) != record.vcpu:
        return f"the body of {record.message_id} is about another vCPU than its record"
    return None


def strangers(facts: Facts) -> Iterator[str]:
    """Yield requests that came to a vCPU which is not among their recipients."""
    for message_id, vcpu in facts.deliveries.in_mailboxes:
        if vcpu is not None and _is_stranger(facts, message_id, vcpu):
            yield f"{message_id} at vCPU {vcpu}"


def _is_stranger(facts: Facts, message_id: str, vcpu: int) -> bool:
    messages = facts.messages
    sent = messages.sent.get(message_id)
    if sent is None or not messages.is_request(message_id):
        return False
    routed = vcpu in messages.recipients(message_id)
    return not routed and not facts.array.is_erased_before(vcpu, sent)

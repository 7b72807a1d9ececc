"""What a dead letter means, told from the history: what broke, what to do about it; pure.

Nobody may believe a dead letter as such: whoever may declare a queue can have anything
dead-lettered. So a command is sent again, and somebody told of it, only if the history shows that
it was sent and has died.
"""

from pydantic import ValidationError

from vm_manager.history_index import DeathKey, HistoryIndex, Sending, VmIndex, death_key
from vm_protocol import messages, topology
from vm_protocol.effects import DeadLettered, Effect, Observed, Publish
from vm_protocol.errors import RejectReason
from vm_protocol.invariants import INVARIANT_OF_REJECT, Invariant
from vm_protocol.observations import Event
from vm_protocol.topology import parse_mailbox

CONNECTIONS_LOST = "connections-lost"
"""Why a message reached its delivery limit when nobody has rejected it."""

UNRECORDED = "unrecorded"
"""Why a letter died when the history shows no reason, or nothing of that message at all."""

WRITABLE = frozenset(
    each.name for each in (topology.COMMANDS, topology.PLACEMENT, topology.ASYNC_PF)
)
"""Where the monitor may publish what it sends again; each key there is its queue's name."""


def vm_of(letter: DeadLettered) -> str | None:
    """Return the VM that a letter is about."""
    mailbox = parse_mailbox(letter.queue)
    if mailbox is not None:
        return mailbox.vm
    return letter.message.vm if letter.message else None


def vcpu_of(letter: DeadLettered) -> int | None:
    """Return the vCPU that a letter is about."""
    mailbox = parse_mailbox(letter.queue)
    return mailbox.vcpu if mailbox else getattr(letter.message, "vcpu", None)


def death_of(letter: DeadLettered, why: str) -> DeathKey:
    """Return what tells a death from others."""
    return death_key(letter.message_id, letter.queue, letter.reason, why)


def is_counted(index: VmIndex, letter: DeadLettered, why: str) -> bool:
    """Tell whether this death was counted before: then the letter's Ack, or a confirm, was lost.

    A request lies in a mailbox only once. Of other messages, two letters with one id are two
    deaths.
    """
    is_one = letter.redelivered or isinstance(letter.message, messages.REQUEST_TYPES)
    return letter.message is not None and is_one and death_of(letter, why) in index.classified


def is_told(index: HistoryIndex, letter: DeadLettered) -> bool:
    """Tell whether the journal, as far as it is read, says all that is needed to judge a letter.

    If the letter was delivered before, another monitor may have judged it; its record then comes
    later in the journal.
    """
    return not letter.redelivered and _recorded(index.of(vm_of(letter)), letter)


def _recorded(index: VmIndex, letter: DeadLettered) -> bool:
    """Tell whether the history read so far says how this letter came about."""
    if letter.reason == "rejected":
        return (letter.message_id, letter.queue) in index.rejects
    if letter.reason == "delivery_limit":
        return letter.message_id in index.requeues
    return letter.message_id in index.causes


def judge(index: VmIndex, letter: DeadLettered) -> tuple[str | None, str]:
    """Return the broken invariant, if any, and why (docs/orderings.md)."""
    if letter.message is None:
        return None, letter.wrong or RejectReason.MALFORMED
    if letter.reason == "rejected":
        why = index.rejects.get((letter.message_id, letter.queue), UNRECORDED)
        return INVARIANT_OF_REJECT.get(why), why
    if letter.reason == "delivery_limit":
        if sending_of(index, letter) is None:
            return None, UNRECORDED
        # Lost connections count towards the broker's limit too; only recorded rejects accuse.
        if letter.message_id in index.requeues:
            return Invariant.STUCK, RejectReason.ROOTS_PINNED
        return None, CONNECTIONS_LOST
    return None, letter.reason


def sending_of(index: VmIndex, letter: DeadLettered) -> Sending | None:
    """Return the sending of a letter's command, if it can have died where the letter says.

    The history shows it sent to that queue, with this body, and not acknowledged there.
    """
    sending = index.sendings.get(letter.message_id)
    if sending is None or sending.routing_key != letter.queue or sending.exchange not in WRITABLE:
        return None
    if (letter.message_id, letter.queue) in index.acked:
        return None
    return sending if _body(sending) == letter.message else None


def _body(sending: Sending) -> messages.Message | None:
    try:
        return messages.MESSAGES.validate_json(sending.body)
    except ValidationError:
        return None


def is_republished(index: VmIndex, letter: DeadLettered) -> bool:
    """Tell whether a letter's command was sent again already."""
    return (letter.message_id, letter.queue) in index.republished


def republish(letter: DeadLettered, sending: Sending) -> tuple[Effect, ...]:
    """Send a command once more, as its sender did, and say so."""
    message = letter.message
    assert message is not None, "it is the sending's"
    again = Publish(
        sending.exchange,
        sending.routing_key,
        message,
        mandatory=True,
        reply_to=sending.reply_to,
    )
    said = Observed(
        Event.DEAD_LETTER_REPUBLISHED,
        message.vm,
        vcpu_of(letter),
        message_id=letter.message_id,
        details=(("queue", letter.queue),),
    )
    return again, said


def tell(letter: DeadLettered, sending: Sending, why: str) -> tuple[Effect, ...]:
    """Tell whoever waits for a command that it has died at its delivery limit."""
    command = letter.message
    if isinstance(command, messages.DestroyVcpu):
        stuck = messages.CommandStuck(
            vm=command.vm,
            incarnation=command.incarnation,
            vcpu=command.vcpu,
            step=command.step,
            why="connections-lost" if why == CONNECTIONS_LOST else "rejects",
        )
        key = topology.MANAGER_REPLIES_QUEUE.name
        return (Publish(topology.REPLIES.name, key, stuck, mandatory=True),)
    if command is None or sending.reply_to is None or why != CONNECTIONS_LOST:
        return ()
    refused = messages.Refused(
        vm=command.vm,
        incarnation=command.incarnation,
        code="connections-lost",
        command=letter.message_id,
    )
    about = letter.message_id
    return (Publish(topology.REPLIES.name, sending.reply_to, refused, correlation_id=about),)


def classified(index: VmIndex, letter: DeadLettered, invariant: str | None, why: str) -> Observed:
    """Return the record that classifies a letter, with its three chains."""
    vcpu = vcpu_of(letter)
    freed_by = index.freed_by.get(vcpu) if vcpu is not None else None
    allocated_by = index.allocated_by.get(vcpu) if vcpu is not None else None
    return Observed(
        Event.DEAD_LETTER_CLASSIFIED,
        vm_of(letter),
        vcpu,
        message_id=letter.message_id,
        details=(
            ("reason", letter.reason),
            ("queue", letter.queue),
            ("invariant", None if invariant is None else str(invariant)),
            ("why", why),
            ("used_by", index.chain(letter.message_id)),
            ("freed_by", index.chain(freed_by)),
            ("allocated_by", index.chain(allocated_by)),
        ),
    )

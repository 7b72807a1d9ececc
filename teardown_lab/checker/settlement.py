"""Tells, record by record, when a run's history is complete enough to be judged.

Fed from the journal's stream while the run goes on. What one service says may arrive before what
caused it at another, so every pair is matched in either order.
"""

from collections.abc import Callable

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import FROM_CLIENTS, SERVED_ONCE
from teardown_lab.checker.takeovers import NO_SUCCESSIONS, is_stale_reject, successions
from vm_protocol.errors import RejectReason
from vm_protocol.messages import REQUEST_TYPE_NAMES
from vm_protocol.observations import Event
from vm_protocol.topology import parse_mailbox
from vm_protocol.wire import Record


class _Pairs:
    """Things owed and things done, matched in either order; `open` counts what is still owed.

    Each is owed by the record that says so.
    """

    def __init__(self) -> None:
        self._owed: dict[tuple[str, object], Record] = {}
        self._done: set[tuple[str, object]] = set()

    @property
    def open(self) -> int:
        return len(self._owed)

    def owe(self, key: tuple[str, object], by: Record) -> None:
        if key not in self._done:
            self._owed[key] = by

    def do(self, key: tuple[str, object]) -> None:
        self._done.add(key)
        self._owed.pop(key, None)

    def keep(self, counts: Callable[[Record], bool]) -> None:
        """Forget what is owed by records that do not count any more."""
        self._owed = {key: by for key, by in self._owed.items() if counts(by)}

    def forget(self, is_of: Callable[[str, object], bool]) -> None:
        self._owed = {key: by for key, by in self._owed.items() if not is_of(*key)}


class Settlement:
    """Follows one VM; `settled` once its teardown ended and every delivery is accounted for."""

    def __init__(self, vm: str) -> None:
        self._vm = vm
        self._ended = False
        self._answered = False
        self._deliveries = _Pairs()
        self._letters = _Pairs()
        self._commands = _Pairs()
        self._sendings = _Pairs()
        self._arrivals = _Pairs()
        self._takeovers: list[Record] = []
        self._successions = NO_SUCCESSIONS
        self._vcpu_of: dict[str, int | None] = {}
        self._lost: set[int | None] = set()

    @property
    def settled(self) -> bool:
        """Return whether nothing that the verdict needs is still under way."""
        done = self._ended and self._answered
        return done and not self._deliveries.open and not self._letters.open

    @property
    def quiet(self) -> bool:
        """Return whether no worker is at work on a command any more, so that nothing new comes.

        A teardown that is freed has waited for all of them; one that is stuck has not.
        """
        return not self._commands.open

    @property
    def has_gaps(self) -> bool:
        """Return whether records are still to come: what was received has been sent by somebody.

        A service that has lost its broker publishes its records again, after what they tell of.
        """
        return bool(self._sendings.open or self._arrivals.open)

    @property
    def open_deliveries(self) -> int:
        """Return how many deliveries are neither acknowledged nor finally rejected."""
        return self._deliveries.open

    @property
    def open_letters(self) -> int:
        """Return how many final rejects the monitor has not classified yet."""
        return self._letters.open

    def feed(self, record: Record) -> None:
        """Take the next record of the journal; those of other VMs are ignored."""
        if record.vm != self._vm or not self._successions.counts(record):
            return
        if self._successions.ends and _is_stale(record):
            self._stale(record)
            return
        match record.event:
            case Event.MANAGER_TOOK_OVER:
                self._took_over(record)
            case Event.VM_FREED | Event.TEARDOWN_STUCK:
                self._ended = True
            case Event.HOST_LOST:
                self._lost.update(shapes.numbers(record, "vcpus"))
                self._forget_lost()
            case Event.MESSAGE_SENT:
                self._sent(record)
            case Event.MESSAGE_RECEIVED:
                self._received(record)
            case Event.MESSAGE_ACKED if record.message_id:
                self._arrivals.owe(_key(record), record)
                self._deliveries.do(_key(record))
                self._commands.do(_message(record))
            case Event.MESSAGE_REJECTED if _is_final(record):
                self._arrivals.owe(_key(record), record)
                self._deliveries.do(_key(record))
                self._commands.do(_message(record))
                # A final reject becomes a dead letter, which the monitor has still to classify.
                self._letters.owe(_letter(record), record)
                self._forget_lost()
            case Event.DEAD_LETTER_CLASSIFIED:
                self._deliveries.do(_key(record))
                self._commands.do(_message(record))
                self._letters.do(_letter(record))
            case Event.MESSAGE_RETURNED:
                self._commands.do(_message(record))
            case _:
                pass

    def _took_over(self, record: Record) -> None:
        """Forget what the predecessor has sent after it had lost its office."""
        self._takeovers.append(record)
        self._successions = successions(self._takeovers)
        for each in (self._deliveries, self._commands):
            each.keep(self._successions.counts)

    def _stale(self, record: Record) -> None:
        """Take the end of what a manager out of office sent: another of its id may be under way."""
        if record.event is Event.MESSAGE_REJECTED:
            self._sendings.do(_message(record))
            self._letters.owe(_letter(record), record)
        else:
            self._letters.do(_letter(record))

    def _forget_lost(self) -> None:
        """Wait for nothing that a lost host owed: nobody is left to do it."""
        if not self._lost:
            return

        def is_lost(message_id: str, where: object) -> bool:
            mailbox = parse_mailbox(where) if isinstance(where, str) else None
            vcpu = mailbox.vcpu if mailbox else where
            return vcpu in self._lost or self._vcpu_of.get(message_id) in self._lost

        for pairs in (self._deliveries, self._letters, self._commands):
            pairs.forget(is_lost)

    def _received(self, record: Record) -> None:
        self._arrivals.do(_key(record))
        if record.message_id and shapes.text(record, "type") not in FROM_CLIENTS:
            self._sendings.owe(_message(record), record)

    def _sent(self, record: Record) -> None:
        name = shapes.text(record, "type")
        message_id = record.message_id or ""
        self._sendings.do(_message(record))
        if name == "VmDestroyed":
            self._answered = True
        elif name == "DestroyVcpu":
            self._vcpu_of[message_id] = record.vcpu
            self._commands.owe(_message(record), record)
        elif name in SERVED_ONCE:
            self._vcpu_of[message_id] = record.vcpu
            self._deliveries.owe((message_id, None), record)
            self._forget_lost()
        elif name in REQUEST_TYPE_NAMES:
            # One publish, and one delivery for each recipient.
            for vcpu in shapes.body(record).numbers("recipients"):
                self._deliveries.owe((message_id, vcpu), record)


def _is_final(record: Record) -> bool:
    """Return whether a reject ends a delivery of ours; what is no message has no id."""
    return record.message_id is not None and not record.details.get("requeue", False)


def _is_stale(record: Record) -> bool:
    """Return whether a reject, or its dead letter, is of what a manager out of office sent."""
    says_stale = shapes.text(record, "why") == RejectReason.STALE_EPOCH
    return is_stale_reject(record) or (record.event is Event.DEAD_LETTER_CLASSIFIED and says_stale)


def _key(record: Record) -> tuple[str, object]:
    mailbox = parse_mailbox(shapes.text(record, "queue"))
    return (record.message_id or "", mailbox.vcpu if mailbox else None)


def _message(record: Record) -> tuple[str, object]:
    return (record.message_id or "", None)


def _letter(record: Record) -> tuple[str, object]:
    return (record.message_id or "", shapes.text(record, "queue"))

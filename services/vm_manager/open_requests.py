"""Requests on their way, as the journal tells: posted to whom, settled by whom; pure.

Gives the round trip of each request, and how far mailboxes lag behind. Times are the records' own
`at_ns`, so hosts are expected to keep their clocks together (NTP); a negative one counts as zero.
"""

from dataclasses import dataclass, field, replace

from immutables import Map

from vm_protocol import limits
from vm_protocol.effects import Observed
from vm_protocol.message_ids import parse_message_id
from vm_protocol.messages import REQUEST_KINDS
from vm_protocol.observations import Event
from vm_protocol.topology import parse_mailbox
from vm_protocol.wire import Record

_SETTLED = frozenset({Event.MESSAGE_ACKED, Event.MESSAGE_REJECTED})
READ_BY_OPEN_REQUESTS = _SETTLED | {Event.MESSAGE_SENT, Event.VM_REMOVED}
"""The events that tell of a request's way."""


@dataclass(frozen=True, slots=True)
class _Open:
    kind: str
    vm: str
    sent_ns: int
    missing: frozenset[int]


@dataclass(frozen=True, slots=True)
class OpenRequests:
    """Requests that some recipient has neither acknowledged nor rejected yet, by message id.

    `early` are settlements that were read before the sending, since two services write one journal.
    A settlement whose sending never comes stays there; when they fill the memory, it begins anew.
    """

    requests: Map[str, _Open] = field(default_factory=Map)
    early: Map[str, frozenset[int]] = field(default_factory=Map)

    def read(self, record: Record) -> tuple["OpenRequests", Observed | None]:
        """Return the requests after a record, and what to observe if one is settled by all now."""
        if record.event == Event.VM_REMOVED:
            return self._without(record.vm), None
        if record.message_id is None or record.vm is None:
            return self, None
        if record.event == Event.MESSAGE_SENT:
            return self._sent(record, record.message_id, record.vm)
        if record.event in _SETTLED:
            return self._settled(record, record.message_id)
        return self, None

    def _without(self, vm: str | None) -> "OpenRequests":
        """Forget a VM whose mailboxes are deleted: what was in them is settled by nobody."""
        requests, early = self.requests, self.early
        for message_id, request in self.requests.items():
            if request.vm == vm:
                requests = requests.delete(message_id)
        for message_id in self.early:
            parsed = parse_message_id(message_id)
            if parsed is not None and parsed.vm == vm:
                early = early.delete(message_id)
        return replace(self, requests=requests, early=early)

    def lag(self) -> int:
        """Return how many open requests the vCPU with the most of them has."""
        counts: dict[tuple[str, int], int] = {}
        for request in self.requests.values():
            for vcpu in request.missing:
                counts[request.vm, vcpu] = counts.get((request.vm, vcpu), 0) + 1
        return max(counts.values(), default=0)

    def _sent(
        self, record: Record, message_id: str, vm: str
    ) -> tuple["OpenRequests", Observed | None]:
        kind = REQUEST_KINDS.get(str(record.details.get("type")))
        body = record.details.get("body")
        if kind is None or not isinstance(body, dict) or message_id in self.requests:
            return self, None
        if len(self.requests) >= limits.MONITOR_MESSAGES_MAX:
            return self, None
        # Recipients write the journal too, and may have been read before the sender was.
        settled = self.early.get(message_id, frozenset())
        missing = frozenset(body.get("recipients", ())) - settled
        opened = _Open(kind, vm, record.at_ns, missing)
        early = self.early.delete(message_id) if message_id in self.early else self.early
        after = replace(self, requests=self.requests.set(message_id, opened), early=early)
        return after._completed(message_id, opened, record.at_ns)

    def _settled(self, record: Record, message_id: str) -> tuple["OpenRequests", Observed | None]:
        mailbox = parse_mailbox(str(record.details.get("queue")))
        if mailbox is None:
            return self, None
        known = self.requests.get(message_id)
        if known is None:
            is_full = len(self.early) >= limits.MONITOR_MESSAGES_MAX
            early = Map[str, frozenset[int]]() if is_full else self.early
            settled = early.get(message_id, frozenset()) | {mailbox.vcpu}
            return replace(self, early=early.set(message_id, settled)), None
        left = replace(known, missing=known.missing - {mailbox.vcpu})
        after = replace(self, requests=self.requests.set(message_id, left))
        return after._completed(message_id, left, record.at_ns)

    def _completed(
        self, message_id: str, request: _Open, at_ns: int
    ) -> tuple["OpenRequests", Observed | None]:
        if request.missing:
            return self, None
        said = Observed(
            Event.REQUEST_COMPLETED,
            request.vm,
            message_id=message_id,
            details=(
                ("kind", request.kind),
                ("round_trip_ns", max(0, at_ns - request.sent_ns)),
            ),
        )
        return replace(self, requests=self.requests.delete(message_id)), said

"""Records that a lost connection has put into the journal twice; pure, and bounded.

A service publishes again what the broker has not confirmed, and some of that had arrived.
"""

from dataclasses import dataclass, field

from immutables import Map

from vm_protocol import limits
from vm_protocol.wire import Record

Identity = tuple[str, int, int]
"""(actor, seq, at_ns): a service that starts anew counts from 0 again, at another time."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """The last records that were read: at least MONITOR_REPEATS_MAX of them, at most twice that."""

    recent: Map[Identity, None] = field(default_factory=Map)
    older: Map[Identity, None] = field(default_factory=Map)

    def read(self, record: Record) -> tuple["Repeats", bool]:
        """Return the memory after a record, and whether it was read before."""
        identity = (record.actor, record.seq, record.at_ns)
        if identity in self.recent or identity in self.older:
            return self, True
        if len(self.recent) >= limits.MONITOR_REPEATS_MAX:
            return Repeats(Map({identity: None}), self.recent), False
        return Repeats(self.recent.set(identity, None), self.older), False

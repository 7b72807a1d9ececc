"""Who may do what on the broker: one RabbitMQ user for each role, as patterns over whole names.

RabbitMQ checks three things: *configure* (declare, delete), *write* (publish to an exchange; bind a
queue) and *read* (consume; bind to an exchange). Declaring a queue with a dead-letter exchange
also takes read on the queue and write on that exchange (RabbitMQ: access-control). Shared queues
and exchanges are imported, so nobody may configure them.
"""

import re
from dataclasses import dataclass
from typing import Final

from vm_protocol import topology

_NAME: Final = "[a-z0-9-]+"
_NUMBER: Final = "[0-9]+"
MAILBOXES: Final = rf"vcpu\.{_NAME}\.{_NUMBER}\.{_NUMBER}"
MANAGER_REPLIES: Final = rf"manager\.{_NUMBER}\.replies"
WORKER_QUEUES: Final = rf"worker\.{_NAME}\.(commands|replies)"
CLIENT_REPLIES: Final = rf"client\.{_NAME}\.replies"


@dataclass(frozen=True, slots=True)
class Role:
    """A RabbitMQ user: its patterns, each over a whole name; `tags` are the management plugin's."""

    user: str
    configure: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def permissions(self) -> dict[str, str]:
        """Return the three patterns as RabbitMQ takes them."""
        return {
            "configure": _pattern(self.configure),
            "write": _pattern(self.write),
            "read": _pattern(self.read),
        }


def _pattern(alternatives: tuple[str, ...]) -> str:
    """Return a pattern that matches one of these from end to end; `^$` matches no name at all."""
    return f"^({'|'.join(alternatives)})$" if alternatives else "^$"


def _names(*things: topology.Exchange | topology.Queue) -> tuple[str, ...]:
    return tuple(re.escape(thing.name).replace(r"\-", "-") for thing in things)


def _streams_but_the_journal() -> tuple[topology.Queue, ...]:
    """Return the streams that are the manager's memory."""
    streams = (queue for queue in topology.SHARED_QUEUES if queue.kind == "stream")
    return tuple(queue for queue in streams if queue != topology.JOURNAL_QUEUE)


MANAGER: Final = Role(
    "manager",
    configure=(MANAGER_REPLIES, MAILBOXES),
    write=(
        MANAGER_REPLIES,
        MAILBOXES,
        *_names(
            topology.COMMANDS,
            topology.REPLIES,
            topology.REQUESTS,
            topology.PLACEMENT,
            topology.RECORDS,
            topology.DEAD_LETTERS,
        ),
    ),
    read=(
        MANAGER_REPLIES,
        MAILBOXES,
        *_names(
            topology.MANAGER_COMMANDS_QUEUE,
            *_streams_but_the_journal(),
            topology.REPLIES,
            topology.REQUESTS,
        ),
    ),
)
MONITOR: Final = Role(
    "monitor",
    write=_names(
        topology.COMMANDS,
        topology.REPLIES,
        topology.PLACEMENT,
        topology.ASYNC_PF,
        topology.RECORDS,
    ),
    read=_names(topology.JOURNAL_QUEUE, topology.DEAD_LETTERS_QUEUE),
)
WORKER: Final = Role(
    "worker",
    configure=(WORKER_QUEUES,),
    write=(
        WORKER_QUEUES,
        *_names(topology.REPLIES, topology.ASYNC_PF, topology.RECORDS, topology.DEAD_LETTERS),
    ),
    read=(
        WORKER_QUEUES,
        MAILBOXES,
        *_names(topology.PLACEMENT_QUEUE, topology.COMMANDS, topology.REPLIES, topology.ASYNC_PF),
    ),
)
CLIENT: Final = Role(
    "client",
    configure=(CLIENT_REPLIES,),
    write=(
        CLIENT_REPLIES,
        *_names(topology.COMMANDS, topology.RECORDS, topology.DEAD_LETTERS),
    ),
    read=(CLIENT_REPLIES, *_names(topology.JOURNAL_QUEUE, topology.REPLIES)),
)
OPERATOR: Final = Role("operator", tags=("monitoring",))
"""Looks at the management pages; touches nothing."""

ROLES: Final = (MANAGER, MONITOR, WORKER, CLIENT, OPERATOR)

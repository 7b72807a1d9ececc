"""Who may do what on the broker: RabbitMQ users as patterns over whole names.

RabbitMQ checks three things: *configure* (declare, delete), *write* (publish to an exchange; bind a
queue) and *read* (consume; bind to an exchange). Declaring a queue with a dead-letter exchange
also takes read on the queue and write on that exchange (RabbitMQ: access-control). Shared queues
and exchanges are imported, so nobody may configure them. On topic exchanges it checks the routing
key as well: which ones a user publishes to, and which it binds (RabbitMQ: topic-authorisation).

Each role is one user. A deployment that tells its workers apart has a user for each, whose patterns
hold its id: `worker_of`.
"""

import re
from dataclasses import dataclass
from typing import Final

from vm_protocol import topology

_NAME: Final = "[a-z0-9-]+"
_NUMBER: Final = "[0-9]+"
MAILBOXES: Final = rf"vcpu\.{_NAME}\.{_NUMBER}\.{_NUMBER}"
CLIENT_REPLIES: Final = rf"client\.{_NAME}\.replies"
ANY_KEY: Final = ".*"


@dataclass(frozen=True, slots=True)
class Topics:
    """The routing keys of a topic exchange that a user publishes to, and binds queues with."""

    exchange: topology.Exchange
    write: tuple[str, ...] = ()
    read: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Role:
    """A RabbitMQ user: its patterns, each over a whole name.

    `tags` are the management plugin's; `connections` is how many it may have at once.
    """

    user: str
    configure: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    topics: tuple[Topics, ...] = ()
    connections: int = 16

    def permissions(self) -> dict[str, str]:
        """Return the three patterns as RabbitMQ takes them."""
        return {
            "configure": _pattern(self.configure),
            "write": _pattern(self.write),
            "read": _pattern(self.read),
        }

    def topic_permissions(self) -> list[dict[str, str]]:
        """Return the patterns over routing keys as RabbitMQ takes them."""
        return [
            {
                "exchange": topics.exchange.name,
                "write": _pattern(topics.write),
                "read": _pattern(topics.read),
            }
            for topics in self.topics
        ]


def _pattern(alternatives: tuple[str, ...]) -> str:
    """Return a pattern that matches one of these from end to end; `^$` matches no name at all."""
    return f"^({'|'.join(alternatives)})$" if alternatives else "^$"


def _names(*things: topology.Exchange | topology.Queue) -> tuple[str, ...]:
    return tuple(re.escape(thing.name).replace(r"\-", "-") for thing in things)


def _streams_but_the_journal() -> tuple[topology.Queue, ...]:
    """Return the streams that are the manager's memory."""
    streams = (queue for queue in topology.SHARED_QUEUES if queue.kind == "stream")
    return tuple(queue for queue in streams if queue != topology.JOURNAL_QUEUE)


MANAGER_REPLIES: Final = _names(topology.MANAGER_REPLIES_QUEUE)

MANAGER: Final = Role(
    "manager",
    configure=(*MANAGER_REPLIES, MAILBOXES),
    write=(
        *MANAGER_REPLIES,
        MAILBOXES,
        *_names(
            topology.COMMANDS,
            topology.REPLIES,
            topology.REQUESTS,
            topology.PLACEMENT,
            topology.RECORDS,
            topology.PROGRESS,
            topology.DEAD_LETTERS,
        ),
    ),
    read=(
        *MANAGER_REPLIES,
        MAILBOXES,
        *_names(
            topology.MANAGER_COMMANDS_QUEUE,
            *_streams_but_the_journal(),
            topology.REPLIES,
            topology.REQUESTS,
        ),
    ),
    topics=(
        # Any key: clients say where they want their answer, and a refusal would close the channel.
        Topics(topology.REPLIES, write=(ANY_KEY,), read=MANAGER_REPLIES),
        Topics(topology.COMMANDS, write=(ANY_KEY,)),
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
    topics=(
        Topics(topology.COMMANDS, write=(ANY_KEY,)),
        Topics(topology.REPLIES, write=(ANY_KEY,)),
        Topics(topology.ASYNC_PF, write=(ANY_KEY,)),
    ),
)


def _worker(user: str, name: str, connections: int) -> Role:
    """Return a user that can be the workers whose ids match `name`, and no others."""
    commands, replies = rf"worker\.{name}\.commands", rf"worker\.{name}\.replies"
    return Role(
        user,
        configure=(commands, replies),
        write=(
            commands,
            replies,
            *_names(topology.REPLIES, topology.ASYNC_PF, topology.RECORDS, topology.DEAD_LETTERS),
        ),
        read=(
            commands,
            replies,
            MAILBOXES,
            *_names(
                topology.PLACEMENT_QUEUE, topology.COMMANDS, topology.REPLIES, topology.ASYNC_PF
            ),
        ),
        topics=(
            Topics(topology.COMMANDS, read=(commands,)),
            Topics(topology.REPLIES, write=MANAGER_REPLIES, read=(replies,)),
            Topics(topology.ASYNC_PF, write=(commands,), read=(commands,)),
        ),
        connections=connections,
    )


WORKER: Final = _worker("worker", _NAME, connections=256)
"""All workers of a deployment that does not tell them apart."""


def worker_of(worker_id: str) -> Role:
    """Return the user of one worker."""
    return _worker(f"worker-{worker_id}", re.escape(worker_id).replace(r"\-", "-"), connections=4)


CLIENT: Final = Role(
    "client",
    configure=(CLIENT_REPLIES,),
    write=(
        CLIENT_REPLIES,
        *_names(topology.COMMANDS, topology.RECORDS, topology.DEAD_LETTERS),
    ),
    read=(CLIENT_REPLIES, *_names(topology.JOURNAL_QUEUE, topology.REPLIES)),
    topics=(
        Topics(topology.COMMANDS, write=_names(topology.MANAGER_COMMANDS_QUEUE)),
        Topics(topology.REPLIES, read=(CLIENT_REPLIES,)),
    ),
    connections=256,
)
OPERATOR: Final = Role("operator", tags=("monitoring",), connections=4)
"""Looks at the management pages; touches nothing."""


def roles_of(workers: tuple[str, ...] = ()) -> tuple[Role, ...]:
    """Return all users; with `workers`, one for each of these ids in place of one for all."""
    of_workers = tuple(worker_of(worker) for worker in workers) or (WORKER,)
    return (MANAGER, MONITOR, *of_workers, CLIENT, OPERATOR)


ROLES: Final = roles_of()

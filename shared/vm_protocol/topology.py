"""Exchanges and queues as frozen data; drivers, simulator and docs read the same values.

Sources: RabbitMQ docs `queues`, `quorum-queues`, `dlx`, `ttl`, `maxlength`, `streams`.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from vm_protocol import limits

ArgumentValue = str | int | bool


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange.

    Nobody binds a pattern to a `topic` exchange: it routes as a direct one. But RabbitMQ checks for
    each user which keys it publishes to and binds there, which it does for no other type.
    """

    name: str
    type: Literal["direct", "fanout", "topic"]


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue with its `x-` arguments and its bindings (exchange name, routing key)."""

    name: str
    arguments: tuple[tuple[str, ArgumentValue], ...]
    bindings: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        """Return "classic", "quorum" or "stream"."""
        return str(dict(self.arguments).get("x-queue-type", "classic"))


COMMANDS: Final = Exchange("commands", "topic")
REPLIES: Final = Exchange("replies", "topic")
REQUESTS: Final = Exchange("vm.requests", "direct")
PLACEMENT: Final = Exchange("placement", "direct")
RECORDS: Final = Exchange("records", "direct")
PROGRESS: Final = Exchange("progress", "direct")
"""The managers' log has an exchange of its own: who writes the journal may not write there."""
DEAD_LETTERS: Final = Exchange("dead-letters", "fanout")
ASYNC_PF: Final = Exchange("async-pf", "topic")
"""Completions of async page faults: the only thing that a worker sends to a commands queue."""
EXCHANGES: Final = (
    COMMANDS,
    REPLIES,
    REQUESTS,
    PLACEMENT,
    RECORDS,
    PROGRESS,
    DEAD_LETTERS,
    ASYNC_PF,
)

_DLX: Final[tuple[str, ArgumentValue]] = ("x-dead-letter-exchange", DEAD_LETTERS.name)


def _quorum(name: str, exchange: Exchange, *extra: tuple[str, ArgumentValue]) -> Queue:
    arguments: tuple[tuple[str, ArgumentValue], ...] = (
        ("x-queue-type", "quorum"),
        ("x-delivery-limit", limits.DELIVERY_LIMIT),
        _DLX,
        *extra,
    )
    return Queue(name, arguments, ((exchange.name, name),))


def _replies(name: str) -> Queue:
    return Queue(name, (("x-expires", limits.ORPHAN_EXPIRES_MS), _DLX), ((REPLIES.name, name),))


MANAGER_COMMANDS_QUEUE: Final = _quorum(
    "manager.commands", COMMANDS, ("x-single-active-consumer", True)
)
MANAGER_REPLIES_QUEUE: Final = _replies("manager.replies")
"""Of whichever manager is active: what was meant for one that died is not lost."""
PLACEMENT_QUEUE: Final = _quorum("vcpu.placement", PLACEMENT)
DEAD_LETTERS_QUEUE: Final = Queue(
    "teardown.dead-letters",
    (("x-queue-type", "quorum"), ("x-delivery-limit", limits.DEAD_LETTER_DELIVERY_LIMIT)),
    ((DEAD_LETTERS.name, ""),),
)
JOURNAL_QUEUE: Final = Queue(
    "teardown.journal",
    (("x-queue-type", "stream"), ("x-max-length-bytes", limits.JOURNAL_BYTES_MAX)),
    ((RECORDS.name, "teardown.journal"),),
)
PROGRESS_QUEUE: Final = Queue(
    "teardown.progress",
    (
        ("x-queue-type", "stream"),
        ("x-max-length-bytes", limits.PROGRESS_BYTES_MAX),
        ("x-stream-max-segment-size-bytes", limits.PROGRESS_SEGMENT_BYTES),
    ),
    ((PROGRESS.name, "teardown.progress"),),
)
SHARED_QUEUES: Final = (
    MANAGER_COMMANDS_QUEUE,
    PLACEMENT_QUEUE,
    DEAD_LETTERS_QUEUE,
    JOURNAL_QUEUE,
    PROGRESS_QUEUE,
)


def replicated(queue: Queue) -> Queue:
    """Return a queue as a cluster is to have it: on several nodes instead of one.

    Its arguments stay: since 3.10 quorum queues have message TTLs (RabbitMQ: quorum-queues). So do
    its name and its bindings; only the service that declares it knows the difference. A dead letter
    is not lost with a node, and a full queue refuses instead of dropping.
    """
    if queue.kind != "classic":
        return queue
    added = (
        ("x-queue-type", "quorum"),
        ("x-delivery-limit", limits.DELIVERY_LIMIT),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),  # without it the strategy is not followed
    )
    return replace(queue, arguments=(*added, *queue.arguments))


@lru_cache(maxsize=64)
def worker_commands(worker: str) -> Queue:
    """Return the queue with the commands to one worker's vCPUs.

    It expires when its worker has been away for long: a worker is named after its container, and a
    container's name never comes back. A consumer keeps it (RabbitMQ: ttl); a worker that reconnects
    declares it again.
    """
    expires = ("x-expires", limits.ORPHAN_EXPIRES_MS)
    queue = _quorum(f"worker.{worker}.commands", COMMANDS, expires)
    return replace(queue, bindings=(*queue.bindings, (ASYNC_PF.name, queue.name)))


@lru_cache(maxsize=64)
def worker_replies(worker: str) -> Queue:
    """Return the queue with the replies to one worker; nothing on it is ever held."""
    return _replies(f"worker.{worker}.replies")


def client_replies(client: str) -> Queue:
    """Return the queue with the replies to one client (a run of the lab)."""
    return _replies(f"client.{client}.replies")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The mailbox of one vCPU: `vcpu.<vm>.<index>.<incarnation>`."""

    vm: str
    vcpu: int
    incarnation: int = 1

    @property
    def name(self) -> str:
        """Return the queue's name."""
        return f"vcpu.{self.vm}.{self.vcpu}.{self.incarnation}"

    def queue(self) -> Queue:
        """Return the mailbox's queue; it is bound and unbound by the manager, not declared so."""
        return Queue(
            self.name,
            (
                ("x-message-ttl", limits.MAILBOX_TTL_MS),
                ("x-max-length", limits.MAILBOX_LENGTH_MAX),
                ("x-expires", limits.ORPHAN_EXPIRES_MS),
                _DLX,
            ),
        )


_NUMBER: Final = r"(0|[1-9][0-9]{0,9})"
_MAILBOX_NAME: Final = re.compile(rf"vcpu\.([a-z0-9][a-z0-9-]*)\.{_NUMBER}\.{_NUMBER}")


@lru_cache(maxsize=limits.VCPUS_MAX)
def parse_mailbox(name: str) -> Mailbox | None:
    """Return the mailbox that a queue's name stands for, None when it is no mailbox's name."""
    found = _MAILBOX_NAME.fullmatch(name)
    if found is None or int(found[2]) >= limits.VCPUS_MAX:
        return None
    return Mailbox(found[1], int(found[2]), int(found[3]))

"""Which RabbitMQ user may send what: roles, the table of senders, and the check; pure.

The broker validates the `user_id` of a message (RabbitMQ: validated-user-id): a publisher may name
itself or nobody. So a receiver that knows which users play which role can tell a forged command,
whatever exchange or dead letter it came through.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.messages import REQUEST_TYPE_NAMES, Message
from vm_protocol.wire import Record


class Role(StrEnum):
    """Who takes part; the deployment names the users of each."""

    MANAGER = "manager"
    MONITOR = "monitor"
    WORKER = "worker"
    CLIENT = "client"


_MANAGER: Final = frozenset({Role.MANAGER})
_WORKER: Final = frozenset({Role.WORKER})
_AGAIN: Final = frozenset({Role.MONITOR})
"""The monitor sends commands again that lost connections have dead-lettered, or gives them up."""

SENDERS: Final[Mapping[str, frozenset[Role]]] = {
    "CreateVm": frozenset({Role.CLIENT}) | _AGAIN,
    "DestroyVm": frozenset({Role.CLIENT}) | _AGAIN,
    "RemoveVm": frozenset({Role.CLIENT}) | _AGAIN,
    "VmCreated": _MANAGER,
    "VmDestroyed": _MANAGER,
    "VmRemoved": _MANAGER,
    "Refused": _MANAGER | _AGAIN,
    "PlaceVcpu": _MANAGER | _AGAIN,
    "PlacementAnswered": _MANAGER,
    "VcpuPlaced": _WORKER,
    "WorkerAlive": _WORKER,
    "WorkerLeaving": _WORKER,
    "DestroyVcpu": _MANAGER | _AGAIN,
    "VcpuStepsDone": _WORKER,
    "RootsReleased": _WORKER,
    "UnloadDone": _MANAGER,
    "ZapRequested": _WORKER,
    "ZapDone": _MANAGER,
    "VmStateRead": _WORKER,
    "AsyncPfCompleted": _WORKER | _AGAIN,
    "RequestAcked": _WORKER,
    "CommandStuck": frozenset({Role.MONITOR}),
    **dict.fromkeys(REQUEST_TYPE_NAMES, _MANAGER),
}
"""Message type -> the roles that send it; a type that is not here is refused."""

_NAMES_ITSELF: Final = ("VcpuPlaced", "WorkerAlive", "WorkerLeaving")

_ACTORS: Final[Mapping[str, Role]] = {
    "manager": Role.MANAGER,
    "monitor": Role.MONITOR,
    "worker": Role.WORKER,
    "lab": Role.CLIENT,
}
"""First part of an actor's name -> the role whose records it writes."""

_MANAGER_ACTOR: Final = re.compile(r"manager\.([1-9][0-9]{0,18})")


def role_of(actor: str) -> Role | None:
    """Return the role that an actor plays by its name, None if that is nobody's."""
    return _ACTORS.get(actor.partition(".")[0])


def manager_actor(epoch: int) -> str:
    """Return the name under which the records and messages of one epoch's manager go out."""
    return f"{Role.MANAGER}.{epoch}"


def epoch_of(actor: str) -> int | None:
    """Return the epoch that an actor's name is of, None if it is no manager's."""
    found = _MANAGER_ACTOR.fullmatch(actor)
    return int(found[1]) if found else None


def without_epoch(actor: str) -> str:
    """Return an actor's name for labels and connections: `manager` in whatever epoch it is."""
    return actor if epoch_of(actor) is None else str(Role.MANAGER)


def worker_actor(worker: str) -> str:
    """Return the name under which a worker's records and messages go out."""
    return f"{Role.WORKER}.{worker}"


def worker_of(actor: str) -> str | None:
    """Return the worker that an actor's name is of, None if it is no worker's."""
    return actor.partition(".")[2] if role_of(actor) is Role.WORKER else None


@dataclass(frozen=True, slots=True)
class Trust:
    """The users of each role; a role for which no users are named may be played by any user.

    `workers` are users that belong to one worker each, with its id: such a user may not speak for
    another worker.
    """

    users: Mapping[Role, frozenset[str]] = field(default_factory=dict)
    workers: Mapping[str, str] = field(default_factory=dict)

    def check(self, message: Message, user_id: str | None, sender: str = "") -> None:
        """Pass a message that this user may send; `sender` is the actor that it names.

        Raises:
            RemoteProtocolError: FORGED: none of its senders' users has sent it, or one worker in
                the name of another.
        """
        roles = SENDERS.get(message.type, frozenset())
        if not self._is_one_of(roles, user_id):
            place = f"property: user_id: {message.type} is not {user_id or 'nobody'}'s to send"
            raise RemoteProtocolError(RejectReason.FORGED, place[:200])
        worker = self.workers.get(user_id or "")
        # These also name their worker in the body, where another's name would do as much harm.
        named = getattr(message, "worker", worker) if message.type in _NAMES_ITSELF else worker
        if worker is not None and (sender, named) != (worker_actor(worker), worker):
            place = f"property: user_id: {user_id} is not {sender} of {named}"
            raise RemoteProtocolError(RejectReason.FORGED, place[:200])

    def check_role(self, role: Role, user_id: str | None) -> None:
        """Pass what only users of a role may write.

        Raises:
            RemoteProtocolError: FORGED: this user is none of them.
        """
        if not self._is_one_of(frozenset({role}), user_id):
            place = f"property: user_id: {user_id or 'nobody'} is no {role}"
            raise RemoteProtocolError(RejectReason.FORGED, place[:200])

    def check_records(self, records: Iterable[Record], user_id: str | None) -> None:
        """Pass a batch of the journal whose actors are this user's.

        Raises:
            RemoteProtocolError: FORGED: somebody writes another's history.
        """
        worker = self.workers.get(user_id or "")
        for actor in {record.actor for record in records}:
            role = role_of(actor)
            is_its_own = worker is None or actor == worker_actor(worker)
            if not (is_its_own and self._is_one_of(frozenset({role} if role else ()), user_id)):
                place = f"property: user_id: {user_id or 'nobody'} is not {actor}"
                raise RemoteProtocolError(RejectReason.FORGED, place[:200])

    def _is_one_of(self, roles: frozenset[Role], user_id: str | None) -> bool:
        named = [self.users.get(role) for role in roles] if self.users else [None]
        # A role that nobody was named for may be played by anybody.
        return any(users is None or user_id in users for users in named)


ANYBODY: Final = Trust()
"""No user is named: every connection is the same user's, as on a private node."""

"""What a run started, as run.json says it, and how each of these things is removed.

Whose a record is, and whether its owner lives, is judged in `leftovers`.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from teardown_lab.broker.address import delete_queues, publish, without_password
from teardown_lab.broker.errors import BrokerUnavailable
from teardown_lab.leftovers.docker import remove_container
from teardown_lab.leftovers.processes import ProcessIdentity, boot_id, carrying, end
from vm_protocol import codec, messages, topology
from vm_protocol.effects import Publish
from vm_protocol.recorder import NO_CAUSE, Recorder

RUN_VARIABLE = "TEARDOWN_LAB_RUN"
_FILE = "run.json"
_GRACE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class RecordedProcess:
    """A process that a run started, and what for."""

    pid: int
    start: int
    role: str


@dataclass(frozen=True, slots=True)
class RecordedQueues:
    """What a run made on a broker that is not its own. The URL may hold a password."""

    url: str
    names: tuple[str, ...]
    exchanges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedVm:
    """A VM that a run has asked for on a broker that is not its own, and has not seen removed."""

    url: str
    name: str


@dataclass(slots=True)
class RunRecord:
    """The text of run.json."""

    boot: str = ""
    processes: list[RecordedProcess] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    queues: list[RecordedQueues] = field(default_factory=list)
    vms: list[RecordedVm] = field(default_factory=list)

    def urls(self) -> list[str]:
        """Return the brokers, not the run's own, that it has made something on."""
        urls = [*(queues.url for queues in self.queues), *(vm.url for vm in self.vms)]
        return list(dict.fromkeys(urls))


def write_record(folder: Path, record: RunRecord) -> None:
    """Write the record of a run, so that a reader finds the old one or the new one.

    Raises:
        OSError: The folder is not writable.
    """
    target = folder / _FILE
    part = target.with_suffix(".part")
    # The folder is readable by its owner only; the file says so too: it may hold a password.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(record), file)
    part.replace(target)


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of a run; None if there is none that can be read."""
    try:
        data = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return RunRecord(
            boot=data["boot"],
            processes=[RecordedProcess(**entry) for entry in data["processes"]],
            containers=[str(name) for name in data["containers"]],
            queues=[
                RecordedQueues(entry["url"], tuple(entry["names"]), tuple(entry["exchanges"]))
                for entry in data["queues"]
            ],
            vms=[RecordedVm(**entry) for entry in data.get("vms", [])],
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remove_recorded(record: RunRecord, run_id: str) -> tuple[list[str], list[str]]:
    """Remove processes, containers and queues; return lines of what went and what could not."""
    removed = _end_processes(record, run_id)
    left: list[str] = []
    for container in record.containers:
        try:
            if remove_container(container):
                removed.append(f"container {container}")
        except BrokerUnavailable as error:
            left.append(f"container {container} is left: {error}")
    for url in record.urls():
        gone, kept = _remove_at(url, record)
        removed += gone
        left += kept
    return removed, left


def _remove_at(url: str, record: RunRecord) -> tuple[list[str], list[str]]:
    """Remove what a run has on one broker; one that does not answer is not asked again."""
    shown = without_password(url)
    vms = [vm.name for vm in record.vms if vm.url == url]
    recorded = [queues for queues in record.queues if queues.url == url]
    names = [name for queues in recorded for name in queues.names]
    exchanges = [name for queues in recorded for name in queues.exchanges]
    try:
        if vms:
            publish(url, topology.COMMANDS.name, [_removal(vm) for vm in vms])
        deleted, refused = delete_queues(url, names, exchanges)
    except BrokerUnavailable as error:
        some = f"{len(vms)} VM{'s' * (len(vms) > 1)}, " if vms else ""
        count = len(names) + len(exchanges)
        return [], [f"{some}{count} queues and exchanges are left: {error}"]
    lines = [f"VM {vm} at {shown}" for vm in vms]
    if recorded:
        lines.append(f"{len(deleted)} queues and exchanges at {shown}")
    return lines, [f"left at {shown}: {line}" for line in refused]


def _removal(vm: str) -> tuple[str, codec.Packet]:
    """Return a RemoveVm with its routing key, for the manager of today or of the next stack.

    It comes after whatever the run has sent, and nobody waits for its answer.
    """
    key, replies = topology.MANAGER_COMMANDS_QUEUE.name, topology.client_replies(vm).name
    remove = Publish(topology.COMMANDS.name, key, messages.RemoveVm(vm=vm), reply_to=replies)
    sent, _ = Recorder("lab", 0).send(remove, 0, NO_CAUSE)
    return key, codec.encode(remove.message, sent.envelope)


def _end_processes(record: RunRecord, run_id: str) -> list[str]:
    roles: dict[ProcessIdentity, str] = {}
    if record.boot == boot_id():  # pids and start times begin anew with each boot
        # The last started goes first in the list; all are asked to end at once.
        for entry in reversed(record.processes):
            roles[ProcessIdentity(entry.pid, entry.start)] = entry.role
    for process in carrying(RUN_VARIABLE, run_id):
        roles.setdefault(process, "started by the run")
    ended = end(roles, grace_seconds=_GRACE_SECONDS)
    return [f"process {process.pid} ({roles[process]})" for process in ended]

"""Where the time of our teardowns went, hop by hop, from the records in the journal."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import pika
from pika.adapters.blocking_connection import BlockingChannel

from teardown_lab.benchmark.clients import BenchFailed, calling
from teardown_lab.benchmark.hops import HOPS
from vm_protocol import codec, limits, topology
from vm_protocol.observations import Event
from vm_protocol.wire import Record

JOURNAL_SECONDS_MAX: Final = 60.0

_MARKS: Final = (
    (Event.MESSAGE_SENT, "DestroyVcpu"),
    (Event.MESSAGE_RECEIVED, "DestroyVcpu"),
    (Event.MESSAGE_RECEIVED, "RootsReleased"),
    (Event.MESSAGE_RECEIVED, "UnloadDone"),
    (Event.MESSAGE_SENT, "VcpuStepsDone"),
    (Event.MESSAGE_RECEIVED, "VcpuStepsDone"),
)
"""Between two neighbours lies one of HOPS; what follows the last belongs to the next vCPU."""


@dataclass(slots=True)
class Story:
    """What the journal says of one VM: when each vCPU passed each mark, and how much there was."""

    marks: dict[tuple[Event, str, int], int] = field(default_factory=dict)
    delivery_count: int = 0
    record_count: int = 0
    has_ended: bool = False

    def read(self, record: Record) -> None:
        """Take a record of the VM."""
        self.record_count += 1
        kind = str(record.details.get("type"))
        if record.event == Event.REQUEST_DELIVERED:
            self.delivery_count += 1
        elif record.event == Event.VM_REMOVED:
            self.has_ended = True
        elif record.vcpu is not None and (record.event, kind) in _MARKS:
            self.marks.setdefault((record.event, kind, record.vcpu), record.at_ns)

    def hops_ns(self, vcpus: int) -> tuple[int, ...]:
        """Return the nanoseconds of each hop, over all vCPUs.

        Raises:
            BenchFailed: A vCPU did not go this way.
        """
        spent = [0] * len(HOPS)
        for vcpu in range(vcpus):
            try:
                times = [self.marks[event, kind, vcpu] for event, kind in _MARKS]
            except KeyError as missing:
                raise BenchFailed(f"vCPU {vcpu} has no {missing} in the journal") from None
            for hop in range(len(_MARKS) - 1):
                spent[hop] += times[hop + 1] - times[hop]
        return tuple(spent)


def read_stories(url: str, vms: Sequence[str], since: datetime) -> dict[str, Story]:
    """Return what the journal says of these VMs, which were removed already.

    Raises:
        BenchFailed: The journal does not tell the end of each within JOURNAL_SECONDS_MAX.
    """
    stories = {vm: Story() for vm in vms}

    def on_batch(channel: BlockingChannel, method: Any, _: Any, body: bytes) -> None:
        _tell(stories, codec.decode_records(body))
        channel.basic_ack(method.delivery_tag)

    deadline = time.monotonic() + JOURNAL_SECONDS_MAX
    arguments: dict[str, Any] = {"x-stream-offset": since.astimezone(UTC)}
    with calling(url) as reader:
        reader.channel.basic_qos(prefetch_count=limits.STREAM_PREFETCH)
        reader.channel.basic_consume(topology.JOURNAL_QUEUE.name, on_batch, arguments=arguments)
        while not all(story.has_ended for story in stories.values()):
            reader.listen(1)
            if time.monotonic() > deadline:
                raise BenchFailed("the journal does not tell the end of every VM")
    return stories


def _tell(stories: dict[str, Story], records: Iterable[Record]) -> None:
    for record in records:
        story = stories.get(record.vm or "")
        if story is not None:
            story.read(record)


def journal_confirm_seconds(url: str, rounds: int = 50) -> float:
    """Return the median time from a publish to the journal until its confirm, one at a time.

    The message is an empty batch of records: it says nothing and takes no room.
    """
    exchange, key = topology.JOURNAL_QUEUE.bindings[0]
    properties = pika.BasicProperties(type="Records", delivery_mode=2)
    taken = []
    with calling(url) as publisher:
        publisher.channel.confirm_delivery()
        for _ in range(rounds):
            began = time.perf_counter()
            publisher.channel.basic_publish(exchange, key, b"", properties)
            taken.append(time.perf_counter() - began)
    return sorted(taken)[rounds // 2]

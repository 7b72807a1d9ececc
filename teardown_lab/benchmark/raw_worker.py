"""The yardstick's worker: answers the yardstick's manager and acknowledges requests.

python -m teardown_lab.benchmark.raw_worker URL NAME MANAGER
"""

import sys
from collections import defaultdict
from time import time_ns

import pika

from teardown_lab.benchmark.raw_peer import RawPeer
from teardown_lab.benchmark.raw_sizes import ANSWER
from vm_protocol import limits, topology
from vm_protocol.topology import parse_mailbox


class RawWorker:
    """Owns the mailboxes that it is told to; counts what each of them gets."""

    def __init__(self, url: str, name: str, manager: str) -> None:
        self._commands = topology.worker_commands(name)
        self._replies = topology.worker_replies(name)
        self._manager = topology.worker_replies(manager).name
        self._received: defaultdict[int, int] = defaultdict(int)
        self._fences: dict[int, int] = {}
        self._unloaded_ns: dict[int, int] = {}
        self._peer = RawPeer(url, self._declare)

    def run(self) -> None:
        """Work until the process is ended."""
        self._peer.run()

    def _declare(self) -> None:
        self._peer.declare(self._commands, lambda: self._peer.declare(self._replies, self._consume))

    def _consume(self) -> None:
        peer = self._peer
        peer.consume(
            self._replies.name,
            limits.REPLIES_PREFETCH,
            self._unloaded,
            lambda: peer.consume(
                self._commands.name, limits.VCPUS_MAX, self._commanded, self._say_ready
            ),
        )

    def _say_ready(self) -> None:
        print("ready", flush=True)  # noqa: T201 - read by whoever started this process

    def _answer(self, kind: str, vcpu: int, *times_ns: int) -> None:
        """Answer the manager; it is told when the worker got and did what is timed."""
        said = "/".join(str(number) for number in (vcpu, *times_ns))
        self._peer.publish(topology.REPLIES.name, self._manager, kind, said, ANSWER)

    def _commanded(self, properties: pika.BasicProperties, _body: bytes) -> None:
        argument = str(properties.message_id)
        if properties.type == "own":
            self._own(argument)
        else:
            self._answer("released", int(argument), time_ns())

    def _own(self, name: str) -> None:
        mailbox = parse_mailbox(name)
        assert mailbox is not None, "the manager names mailboxes"
        vcpu = mailbox.vcpu
        self._received[vcpu] = 0

        def requested(_properties: pika.BasicProperties, _body: bytes) -> None:
            self._received[vcpu] += 1
            if self._fences.get(vcpu) == self._received[vcpu]:
                self._free(vcpu)

        prefetch = limits.MAILBOX_PREFETCH
        self._peer.consume(name, prefetch, requested, lambda: self._answer("owned", vcpu))

    def _unloaded(self, properties: pika.BasicProperties, _body: bytes) -> None:
        vcpu, routed = (int(part) for part in str(properties.message_id).split("/"))
        self._fences[vcpu] = routed
        self._unloaded_ns[vcpu] = time_ns()
        if self._received[vcpu] == routed:
            self._free(vcpu)

    def _free(self, vcpu: int) -> None:
        del self._fences[vcpu]
        self._answer("done", vcpu, self._unloaded_ns[vcpu], time_ns())


if __name__ == "__main__":
    RawWorker(sys.argv[1], sys.argv[2], sys.argv[3]).run()

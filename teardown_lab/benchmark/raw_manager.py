"""The yardstick's manager: the messages of a teardown in their order, without what they mean.

    python -m teardown_lab.benchmark.raw_manager URL NAME WORKER...

Per vCPU: a command to its worker's quorum queue, the answer on a classic queue, one publish to
all mailboxes that are bound still and a reply, the last answer, an unbind. Before the first: what
stop_background_workers and zap_all_roots post.
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import cycle
from time import time_ns
from typing import Any

import pika

from teardown_lab.benchmark.hops import HOPS
from teardown_lab.benchmark.raw_peer import RawPeer
from teardown_lab.benchmark.raw_sizes import ANSWER, COMMAND, request
from vm_protocol import limits, topology
from vm_protocol.topology import Mailbox


class RawManager:
    """Takes `create`, `destroy` and `remove` of one VM after another, and answers each."""

    def __init__(self, url: str, name: str, workers: list[str]) -> None:
        self._commands = topology.worker_commands(name)
        self._replies = topology.worker_replies(name)
        self._client = topology.client_replies(name).name
        self._workers = workers
        self._vm = ""
        self._mailboxes: list[Mailbox] = []
        self._owners: list[str] = []
        self._open = 0
        self._times_ns: list[int] = []
        self._spent_ns = [0] * len(HOPS)
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
            self._answered,
            lambda: peer.consume(
                self._commands.name, limits.MANAGER_PREFETCH, self._commanded, self._say_ready
            ),
        )

    def _say_ready(self) -> None:
        print("ready", flush=True)  # noqa: T201 - read by whoever started this process

    # --- what the client asks for ------------------------------------------------------------

    def _commanded(self, properties: pika.BasicProperties, _body: bytes) -> None:
        argument = str(properties.message_id)
        match properties.type:
            case "create":
                vm, _, count = argument.partition("/")
                self._create(vm, int(count))
            case "destroy":
                self._spent_ns = [0] * len(HOPS)
                self._times_ns = [time_ns()]
                self._post_setup()
                self._destroy(0)
            case _:
                self._each(self._delete, "removed")

    def _tell(self, kind: str, said: str = "") -> None:
        self._peer.publish(topology.REPLIES.name, self._client, kind, said, ANSWER)

    def _each(self, act: Callable[[Mailbox, Callable[[Any], None]], None], kind: str) -> None:
        """Do something with every mailbox at once, and tell the client when all is done."""
        self._open = len(self._mailboxes)

        def done(_: Any) -> None:
            self._open -= 1
            if not self._open:
                self._tell(kind)

        for mailbox in self._mailboxes:
            act(mailbox, done)

    def _delete(self, mailbox: Mailbox, done: Callable[[Any], None]) -> None:
        self._peer.channel.queue_delete(mailbox.name, callback=done)

    def _create(self, vm: str, count: int) -> None:
        self._vm = vm
        self._mailboxes = [Mailbox(vm, vcpu) for vcpu in range(count)]
        self._owners = [worker for _, worker in zip(range(count), cycle(self._workers))]
        self._open = count
        for mailbox in self._mailboxes:
            self._peer.declare(mailbox.queue(), partial(self._bind, mailbox))

    def _bind(self, mailbox: Mailbox) -> None:
        def bound(_: Any) -> None:
            self._command(mailbox.vcpu, "own", mailbox.name)

        self._peer.channel.queue_bind(
            mailbox.name, topology.REQUESTS.name, self._vm, callback=bound
        )

    # --- the teardown --------------------------------------------------------------------------

    def _post_setup(self) -> None:
        count = len(self._mailboxes)
        for _ in range(count + 2):
            self._post(count)

    def _post(self, recipient_count: int) -> None:
        size = request(recipient_count)
        self._peer.publish(topology.REQUESTS.name, self._vm, "request", "", size)

    def _command(self, vcpu: int, kind: str, argument: str) -> None:
        worker = topology.worker_commands(self._owners[vcpu]).name
        self._peer.publish(topology.COMMANDS.name, worker, kind, argument, COMMAND)

    def _destroy(self, vcpu: int) -> None:
        self._command(vcpu, "destroy", str(vcpu))

    def _answered(self, properties: pika.BasicProperties, _body: bytes) -> None:
        vcpu, *times_ns = (int(part) for part in str(properties.message_id).split("/"))
        self._times_ns += (*times_ns, time_ns())
        match properties.type:
            case "owned":
                self._open -= 1
                if not self._open:
                    self._tell("created")
            case "released":
                self._unload(vcpu)
            case _:
                self._erase(vcpu)

    def _unload(self, vcpu: int) -> None:
        """Post the flush; the reply says how many requests this mailbox has been sent."""
        count = len(self._mailboxes)
        self._post(count - vcpu)
        replies = topology.worker_replies(self._owners[vcpu]).name
        routed = count + 2 + vcpu + 1
        self._peer.publish(topology.REPLIES.name, replies, "unloaded", f"{vcpu}/{routed}", ANSWER)

    def _erase(self, vcpu: int) -> None:
        def unbound(_: Any) -> None:
            self._add_up()
            if vcpu + 1 < len(self._mailboxes):
                self._destroy(vcpu + 1)
            else:
                self._tell("destroyed", "/".join(str(spent) for spent in self._spent_ns))

        name = self._mailboxes[vcpu].name
        self._peer.channel.queue_unbind(name, topology.REQUESTS.name, self._vm, callback=unbound)

    def _add_up(self) -> None:
        """Add what one vCPU took, from before its command until after its unbind, to each hop."""
        times_ns = [*self._times_ns, time_ns()]
        for hop in range(len(HOPS)):
            self._spent_ns[hop] += times_ns[hop + 1] - times_ns[hop]
        self._times_ns = [times_ns[-1]]


if __name__ == "__main__":
    RawManager(sys.argv[1], sys.argv[2], sys.argv[3:]).run()

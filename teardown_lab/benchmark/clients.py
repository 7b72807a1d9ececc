"""Who asks for a VM and has it destroyed, by the clock: one of our services, one of the yardstick.

Both wait for the answer and do nothing else: no history is read or written meanwhile.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from service_runtime.amqp.confirms import Outgoing
from teardown_lab.benchmark.raw_sizes import COMMAND
from vm_protocol import messages, topology
from vm_protocol.effects import Publish
from vm_protocol.ordering import Ordering
from vm_protocol.recorder import NO_CAUSE, Recorder
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Queue

ANSWER_SECONDS_MAX: Final = 120.0


class BenchFailed(Exception):
    """An answer did not come, or was not the one that was expected."""


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """What came back, its id, and how long it took."""

    type: str
    message_id: str
    seconds: float


class Caller:
    """A blocking connection that asks one thing at a time."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel: BlockingChannel = self._connection.channel()
        self._answers: list[tuple[str, str]] = []

    def close(self) -> None:
        """Close the connection, if nothing has closed it yet.

        pika gives back what it has not handed out; a stream's broker closes the connection over
        that, which comes to the same.
        """
        if self._connection.is_open:
            with suppress(AMQPError):
                self._connection.close()

    def listen(self, seconds: float) -> None:
        """Let deliveries reach their callbacks; return after the first, or after these seconds."""
        self._connection.process_data_events(seconds)

    def take_answers_on(self, queue: Queue) -> None:
        """Declare and consume a queue for answers."""
        arguments: dict[str, Any] = dict(queue.arguments)
        self.channel.queue_declare(queue.name, durable=True, arguments=arguments)
        for exchange, key in queue.bindings:
            self.channel.queue_bind(queue.name, exchange, key)
        self.channel.basic_consume(queue.name, self._answered)

    def _answered(
        self, channel: BlockingChannel, method: Any, properties: pika.BasicProperties, _: bytes
    ) -> None:
        self._answers.append((str(properties.type), str(properties.message_id)))
        channel.basic_ack(method.delivery_tag)

    def ask(self, key: str, body: bytes, properties: pika.BasicProperties) -> TimedAnswer:
        """Send a command and wait for what comes back.

        Raises:
            BenchFailed: Nothing came within ANSWER_SECONDS_MAX.
        """
        self._answers.clear()
        began = time.perf_counter()
        self.channel.basic_publish(topology.COMMANDS.name, key, body, properties, mandatory=True)
        while not self._answers:
            self.listen(1)
            if time.perf_counter() - began > ANSWER_SECONDS_MAX:
                raise BenchFailed(f"no answer from {key} within {ANSWER_SECONDS_MAX:.0f} s")
        kind, message_id = self._answers[0]
        return TimedAnswer(kind, message_id, time.perf_counter() - began)


class OurClient:
    """Asks vm-manager."""

    def __init__(self, caller: Caller, vm: str) -> None:
        self._caller = caller
        self._vm = vm
        self._replies = topology.client_replies(vm)
        self._recorder = Recorder("lab", 0)
        caller.take_answers_on(self._replies)

    def create(self, scenario: Scenario) -> float:
        """Create the VM; return the seconds it took."""
        return self._ask(messages.CreateVm(vm=self._vm, scenario=scenario), "VmCreated")

    def destroy(self, ordering: Ordering) -> float:
        """Destroy the VM; return the seconds it took."""
        return self._ask(messages.DestroyVm(vm=self._vm, ordering=ordering), "VmDestroyed")

    def remove(self) -> None:
        """Remove what the VM has left on the broker, and the client's own queue."""
        self._ask(messages.RemoveVm(vm=self._vm), "VmRemoved")
        self._caller.channel.queue_delete(self._replies.name)

    def _ask(self, message: messages.Message, expected: str) -> float:
        key = topology.MANAGER_COMMANDS_QUEUE.name
        command = Publish(topology.COMMANDS.name, key, message, reply_to=self._replies.name)
        send, _ = self._recorder.send(command, time.time_ns(), NO_CAUSE)
        packet = Outgoing.of(send).packet
        headers = dict(packet.headers)
        properties = pika.BasicProperties(headers=headers, delivery_mode=2, **packet.properties)
        answer = self._caller.ask(key, packet.body, properties)
        if answer.type != expected:
            raise BenchFailed(f"{expected} expected, {answer.type} came: {answer.message_id}")
        return answer.seconds


class RawClient:
    """Asks the yardstick's manager."""

    def __init__(self, caller: Caller, manager: str) -> None:
        self._caller = caller
        self._key = topology.worker_commands(manager).name
        caller.take_answers_on(topology.client_replies(manager))

    def create(self, vm: str, vcpus: int) -> None:
        """Declare, bind and consume the mailboxes."""
        self._ask("create", f"{vm}/{vcpus}", "created")

    def destroy(self) -> tuple[float, tuple[int, ...]]:
        """Send a teardown's messages; return the seconds, and the nanoseconds of each hop."""
        answer = self._ask("destroy", "", "destroyed")
        return answer.seconds, tuple(int(spent) for spent in answer.message_id.split("/"))

    def remove(self) -> None:
        """Delete the mailboxes."""
        self._ask("remove", "", "removed")

    def _ask(self, kind: str, argument: str, expected: str) -> TimedAnswer:
        properties = pika.BasicProperties(type=kind, message_id=argument, delivery_mode=2)
        answer = self._caller.ask(self._key, b"x" * COMMAND, properties)
        if answer.type != expected:
            raise BenchFailed(f"the yardstick answers {answer.type} instead of {expected}")
        return answer


@contextmanager
def calling(url: str) -> Iterator[Caller]:
    """Open a caller and close it.

    Raises:
        BenchFailed: The broker refuses, or closes the connection or its channel.
    """
    try:
        caller = Caller(url)
        try:
            yield caller
        finally:
            caller.close()
    except AMQPError as error:
        raise BenchFailed(f"{type(error).__name__}: {error}") from error

"""Messages that no service sends: seeded, each with the fate that the contract gives it."""

import json
import random as randomness
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

from vm_manager.catalogue import catalogue_entry
from vm_protocol import codec, limits, messages, topology
from vm_protocol.codec import Packet
from vm_protocol.effects import Publish
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.messages import Message
from vm_protocol.recorder import NO_CAUSE, Recorder

NOWHERE = "nobody-listens-here"
STRANGERS = tuple(f"stranger-{number}" for number in range(20))
SKIPPED, ACKED = "skipped", "acked"


def dead(reason: RejectReason | str) -> str:
    """Return the fate of a message that ends as a dead letter for this reason."""
    return f"dead: {reason}"


@dataclass(frozen=True)
class Fuzzed:
    """One message, where it is published, and how it must end."""

    exchange: str
    key: str
    packet: Packet
    fate: str


@dataclass(frozen=True)
class Target:
    """A queue of the topology, by the exchange and key that lead to it."""

    exchange: str
    key: str
    valid: Callable[["Fuzzer"], tuple[Message, str | None, int, str]]
    """Makes a well-formed message: with its reply_to, its epoch, and its fate here."""


class Fuzzer:
    """Makes fuzzed messages for all queues of two workers, a manager, and one live mailbox."""

    def __init__(self, random: randomness.Random, workers: tuple[str, ...], live_vm: str) -> None:
        self.random = random
        self.vm = random.choice(STRANGERS)
        self._numbers = count()
        commands, replies = topology.COMMANDS.name, topology.REPLIES.name
        manager = topology.MANAGER_COMMANDS_QUEUE.name
        manager_replies = topology.MANAGER_REPLIES_QUEUE.name
        self.targets = [
            Target(commands, manager, _to_manager),
            Target(replies, manager_replies, _reply_to_manager),
            Target(topology.PLACEMENT.name, topology.PLACEMENT_QUEUE.name, _placement),
            Target(topology.REQUESTS.name, live_vm, _to_mailbox),
        ]
        for worker in workers:
            command_queue = topology.worker_commands(worker).name
            self.targets.append(Target(commands, command_queue, _to_worker))
            self.targets.append(Target(replies, topology.worker_replies(worker).name, _answer))

    def number(self) -> int:
        """Return the next number: the monitor tells dead letters apart by message and queue."""
        return next(self._numbers) % limits.VCPUS_MAX

    def make(self, message_count: int) -> Iterator[Fuzzed]:
        """Yield messages: most to ordinary queues, some to the journal and the dead letters."""
        for _ in range(message_count):
            self.vm = self.random.choice(STRANGERS)
            roll = self.random.random()
            if roll < 0.1:
                yield self._journal()
            elif roll < 0.2:
                yield self._dead_letter()
            else:
                yield self._ordinary(self.random.choice(self.targets))

    def _ordinary(self, target: Target) -> Fuzzed:
        message, reply_to, epoch, fate = target.valid(self)
        packet = encode(message, reply_to, epoch)
        roll = self.random.random()
        if roll < 0.3:
            odd = self._odd_headers()
            # 3.10's queues crash over an array that is no array of deaths, whoever rejects it.
            if isinstance(odd.get("x-death"), list):
                del odd["x-death"]
            packet = replace(packet, headers={**packet.headers, **odd})
            return Fuzzed(target.exchange, target.key, packet, fate)
        packet = self._spoil(packet)
        return Fuzzed(target.exchange, target.key, packet, dead(self._wrong(packet)))

    def _wrong(self, packet: Packet) -> RejectReason:
        try:
            codec.decode(packet)
        except RemoteProtocolError as error:
            return error.reason
        raise AssertionError(f"a spoilt message is none: {packet}")

    def _spoil(self, packet: Packet) -> Packet:
        """Make a message one that the codec must refuse."""
        ways = [
            self._spoil_body,
            self._spoil_value,
            self._spoil_property,
            self._spoil_header,
            self._spoil_size,
        ]
        weights = [4, 4, 3, 3, 0.2]
        for _ in range(50):
            spoilt = self.random.choices(ways, weights)[0](packet)
            try:
                codec.decode(spoilt)
            except RemoteProtocolError:
                return spoilt
        return replace(packet, properties={**packet.properties, "type": "spoilt"})

    def _spoil_body(self, packet: Packet) -> Packet:
        body, random = packet.body, self.random
        cut = random.randrange(len(body))
        bodies = [
            b"",
            body[:cut],
            random.randbytes(random.randrange(200)),
            body[:cut] + random.randbytes(3) + body[cut:],
            body + b"{}",
            b"[" * random.randrange(1, 5000),
            b'{"type": "' + random.randbytes(8).hex().encode() + b'"}',
            json.dumps(random.choice([None, 1, [], "x", {}, 1e300])).encode(),
            body.replace(b":1", b":" + b"9" * random.randrange(20, 5000)),
        ]
        return replace(packet, body=random.choice(bodies))

    def _spoil_value(self, packet: Packet) -> Packet:
        value = json.loads(packet.body)
        name = self.random.choice(list(value))
        odd: list[Any] = [None, -1, 2**63, 10**400, "\u0000", "x" * 300, [], {}, [[]], True, 0.5]
        value[name] = self.random.choice(odd)
        if self.random.random() < 0.3:
            value["surplus"] = 1
        return replace(packet, body=json.dumps(value).encode())

    def _spoil_property(self, packet: Packet) -> Packet:
        name = self.random.choice(["message_id", "type", "reply_to"])
        values = [None, "", "x", "\u00e9" * 100, "y" * 255]
        return replace(packet, properties={**packet.properties, name: self.random.choice(values)})

    def _spoil_header(self, packet: Packet) -> Packet:
        name = self.random.choice([codec.SCHEMA_HEADER, *codec.HEADERS.values()])
        if self.random.random() < 0.3:
            left = {key: value for key, value in packet.headers.items() if key != name}
            return replace(packet, headers=left)
        return replace(packet, headers={**packet.headers, name: self._odd_value()})

    def _spoil_size(self, packet: Packet) -> Packet:
        size = limits.MESSAGE_BYTES_MAX + self.random.randrange(1, 100_000)
        return replace(packet, body=packet.body + b" " * size)

    def _odd_headers(self) -> dict[str, Any]:
        names = ["x-stream-offset", "x-delivery-count", "x-death", "\u00fc", "x" * 200, "a"]
        return {self.random.choice(names): self._odd_value() for _ in range(3)}

    def _odd_value(self) -> Any:
        random = self.random
        values: list[Any] = [
            None,
            True,
            -1,
            -(2**63),
            Decimal("2.5"),
            "junk",
            "z" * random.randrange(1, 20_000),
            random.randbytes(8),
            datetime.now(UTC),
            [],
            ["a", 1, None, [{}]],
            {},
            {"deep": {"deeper": [{"reason": "rejected"}]}},
            [{"reason": 5, "queue": ["x"]}],
        ]
        return random.choice(values)

    def _journal(self) -> Fuzzed:
        random = self.random
        record = b'{"schema":1,"seq":0,"actor":"x","event":"vm.freed","lamport":0,"at_ns":0}'
        bodies = [
            random.randbytes(random.randrange(1, 300)) + b"\xff",
            record[: random.randrange(1, len(record) - 1)],
            record + b"\n" + record.replace(b"vm.freed", b"no.event"),
            record.replace(b'"schema":1', b'"schema":2'),
            b"[]",
            b"x" * random.randrange(1, 100_000),
        ]
        headers = {
            name: value
            for name, value in self._odd_headers().items()
            if not isinstance(value, Decimal)  # 3.10 closes the connection: no stream has decimals
        }
        packet = Packet(random.choice(bodies), {"type": "Records"}, headers)
        return Fuzzed(topology.RECORDS.name, topology.JOURNAL_QUEUE.name, packet, SKIPPED)

    def _dead_letter(self) -> Fuzzed:
        """Forge a dead letter; without an `x-death` nothing has died."""
        random = self.random
        message, reply_to, epoch, _ = random.choice(self.targets).valid(self)
        packet = encode(message, reply_to, epoch)
        if random.random() < 0.4:
            odd = random.choice([None, "junk", [], ["x"], [{}], [{"reason": "rejected"}], {"a": 1}])
            packet = replace(packet, headers={**packet.headers, "x-death": odd})
            return Fuzzed(topology.DEAD_LETTERS.name, "", packet, SKIPPED)
        reasons = ["rejected", "expired", "maxlen", "delivery_limit", "whatever", "x" * 3000]
        death: dict[str, Any] = {
            "reason": random.choice(reasons),
            "queue": random.choice(["", "x", "vcpu.a.1.1", f"vcpu.a.{'9' * 5000}.1", "q" * 9000]),
            "exchange": random.choice(["", "no-such-exchange", "e" * 300, 5]),
            "routing-keys": random.choice([[], ["k"], "k", [None], ["k" * 400]]),
        }
        spoilt = random.random() < 0.5
        if spoilt:
            packet = self._spoil(packet)
        packet = replace(packet, headers={**packet.headers, "x-death": [death]})
        if max(len(death["reason"]), len(death["queue"])) > limits.TEXT_CHARACTERS_MAX:
            return Fuzzed(topology.DEAD_LETTERS.name, "", packet, SKIPPED)
        if spoilt:
            return Fuzzed(topology.DEAD_LETTERS.name, "", packet, dead(self._wrong(packet)))
        fate = self._judged(death["reason"])
        return Fuzzed(topology.DEAD_LETTERS.name, "", packet, fate)

    def _judged(self, reason: str) -> str:
        """What the monitor must say of a forged letter: no record explains it, nothing was sent."""
        known = {
            "rejected": "unrecorded",
            "delivery_limit": "unrecorded",
            "expired": "expired",
            "maxlen": "maxlen",
        }
        return dead(known.get(reason, "other"))


def encode(message: Message, reply_to: str | None, epoch: int) -> Packet:
    """Return a message as a service of this epoch would send it."""
    publish = Publish("", "", message, reply_to=reply_to)
    send, _ = Recorder("fuzzer", epoch).send(publish, 0, NO_CAUSE)
    return codec.encode(send.publish.message, send.envelope)


# --- well-formed messages, and what each queue's consumer does with them ------------------


def _vcpu(fuzzer: Fuzzer) -> Mapping[str, Any]:
    return {"vm": fuzzer.vm, "vcpu": fuzzer.number()}


def _place(fuzzer: Fuzzer) -> Mapping[str, Any]:
    return {**_vcpu(fuzzer), "step": "3.0", "position": 1}


def _destroy_vcpu(fuzzer: Fuzzer) -> messages.DestroyVcpu:
    return messages.DestroyVcpu(
        **_vcpu(fuzzer), step="3.0", steps=("free_vcpu",), generation=5, fence=True
    )


def _to_manager(fuzzer: Fuzzer) -> tuple[Message, str | None, int, str]:
    vm = fuzzer.vm
    ordering = catalogue_entry("unload-in-destroy").ordering
    unexpected = dead(RejectReason.UNEXPECTED)
    placed = messages.VcpuPlaced(**_vcpu(fuzzer), worker="w")
    return fuzzer.random.choice(
        [
            (messages.DestroyVm(vm=vm, ordering=ordering), NOWHERE, 0, ACKED),
            (messages.RemoveVm(vm=vm), NOWHERE, 0, ACKED),
            (messages.RemoveVm(vm=vm), None, 0, unexpected),
            (placed, NOWHERE, 1, unexpected),
        ]
    )


def _reply_to_manager(fuzzer: Fuzzer) -> tuple[Message, str | None, int, str]:
    not_owned = dead(RejectReason.NOT_OWNED)
    done = messages.VcpuStepsDone(**_vcpu(fuzzer), step="3.0", outcome="done")
    read = messages.VmStateRead(**_place(fuzzer), state="irqchip")
    return fuzzer.random.choice(
        [
            (done, None, 0, not_owned),
            (read, NOWHERE, 0, not_owned),
            (messages.RemoveVm(vm=fuzzer.vm), NOWHERE, 0, not_owned),
        ]
    )


def _placement(fuzzer: Fuzzer) -> tuple[Message, str | None, int, str]:
    place = messages.PlaceVcpu(
        **_vcpu(fuzzer),
        contexts=(("root",), ()),
        async_pf=0,
        nested=False,
        avic=False,
        in_guest=False,
        fence_ms=1,
    )
    return fuzzer.random.choice(
        [
            # A valid one has a test of its own: until it is answered, it holds capacity.
            (place, NOWHERE, 0, dead(RejectReason.STALE_EPOCH)),
            (place, None, 1, dead(RejectReason.UNEXPECTED)),
        ]
    )


def _to_worker(fuzzer: Fuzzer) -> tuple[Message, str | None, int, str]:
    command = _destroy_vcpu(fuzzer)
    fault = messages.AsyncPfCompleted(**_vcpu(fuzzer), fault=0)
    return fuzzer.random.choice(
        [
            (command, topology.MANAGER_REPLIES_QUEUE.name, 1, dead(RejectReason.NOT_OWNED)),
            # A worker answers managers only.
            (command, NOWHERE, 1, dead(RejectReason.UNEXPECTED)),
            (command, NOWHERE, 0, dead(RejectReason.STALE_EPOCH)),
            (command, None, 1, dead(RejectReason.UNEXPECTED)),
            (fault, None, 0, dead(RejectReason.NOT_OWNED)),
        ]
    )


def _answer(fuzzer: Fuzzer) -> tuple[Message, str | None, int, str]:
    done = messages.UnloadDone(**_place(fuzzer), generation=7)
    return fuzzer.random.choice(
        [
            (done, None, 1, ACKED),
            (done, NOWHERE, 0, dead(RejectReason.STALE_EPOCH)),
            (_destroy_vcpu(fuzzer), NOWHERE, 1, dead(RejectReason.UNEXPECTED)),
        ]
    )


def _to_mailbox(fuzzer: Fuzzer) -> tuple[Message, str | None, int, str]:
    number = fuzzer.number()
    flush = messages.TlbFlush(vm=fuzzer.vm, generation=number + 1, recipients=(0,))
    return fuzzer.random.choice(
        [
            (flush, None, 1, dead(RejectReason.NOT_OWNED)),
            (flush, None, 0, dead(RejectReason.STALE_EPOCH)),
            (_destroy_vcpu(fuzzer), NOWHERE, 1, dead(RejectReason.UNEXPECTED)),
        ]
    )

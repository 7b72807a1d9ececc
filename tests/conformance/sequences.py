"""Random sequences of operations, run side by side on the simulated broker and on a real one.

Two pairs of queues: `a` dead-letters to `grave-a`, which may dead-letter back, and so for `b`. What
RabbitMQ leaves open is kept out or compared loosely:

- deliveries are compared for each client and queue by itself: between queues there is no order;
- a client uses one queue of a pair only: which queue learns first of a lost connection is open;
- the next message is published when the former one's dead letters have come to rest: a confirm says
  nothing about those;
- a queue is not declared again while somebody holds a delivery of its predecessor.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from conformance.adapter import Broker, Delivery, Gone, Sent
from conformance.simulated import Simulated
from vm_protocol.topology import Queue

CLIENTS = ("one", "two", "three")
SOURCES = ("a", "b")
QUEUES = ("a", "grave-a", "b", "grave-b")
OPERATIONS_MAX = 25

Op = tuple[Any, ...]
Event = Delivery | Gone


@dataclass(frozen=True)
class Plan:
    """What to declare, and what to do then; an operation that makes no sense is skipped."""

    queues: tuple[Queue, ...]
    operations: tuple[Op, ...]


def _arguments(
    draw: st.DrawFn, dead_letter_exchange: str | None, kinds: tuple[str, ...]
) -> dict[str, Any]:
    kind = draw(st.sampled_from(kinds))
    arguments: dict[str, Any] = {"x-queue-type": kind}
    if dead_letter_exchange is not None:
        arguments["x-dead-letter-exchange"] = dead_letter_exchange
    length = draw(st.sampled_from([None, None, 1, 2, 3]))
    if length is not None:
        arguments["x-max-length"] = length
    if kind == "quorum":
        limit = draw(st.sampled_from([None, 0, 1, 2, 20]))
        if limit is not None:
            arguments["x-delivery-limit"] = limit
        if draw(st.integers(0, 3)) == 0:
            arguments["x-single-active-consumer"] = True
    return arguments


@st.composite
def plans(draw: st.DrawFn, kinds: tuple[str, ...] = ("classic", "quorum")) -> Plan:
    """Return a plan of at most OPERATIONS_MAX operations."""
    queues = []
    for name in SOURCES:
        source = _arguments(draw, f"dead-{name}", kinds)
        grave = _arguments(draw, draw(st.sampled_from([None, f"back-{name}"])), kinds)
        bindings = (("in", name), ("in", "both"), (f"back-{name}", name), (f"back-{name}", "both"))
        queues.append(Queue(name, tuple(source.items()), bindings))
        graves = ((f"dead-{name}", name), (f"dead-{name}", "both"))
        queues.append(Queue(f"grave-{name}", tuple(grave.items()), graves))
    begin = draw(st.lists(_consume, min_size=2, max_size=4))
    count = draw(st.integers(OPERATIONS_MAX // 2, OPERATIONS_MAX)) - len(begin)
    rest = [draw(_OPERATIONS[draw(st.sampled_from(_WEIGHTED))]) for _ in range(count)]
    return Plan(tuple(queues), (*begin, *rest))


_key = st.sampled_from([*SOURCES, "both"])
_index = st.integers(0, 11)
_client = st.sampled_from(CLIENTS)
_consume = st.tuples(st.just("consume"), _index, st.integers(1, 3))
_OPERATIONS: dict[str, st.SearchStrategy[Op]] = {
    "publish": st.tuples(st.just("publish"), _key, st.integers(1, 3), st.booleans()),
    "consume": _consume,
    "settle": st.tuples(
        st.just("settle"),
        _index,
        st.sampled_from(["ack", "return", "return", "reject", "nack back", "nack"]),
    ),
    "cancel": st.tuples(st.just("cancel"), _index),
    "unbind": st.tuples(st.just("unbind"), st.sampled_from(SOURCES), _key),
    "bind": st.tuples(st.just("bind"), st.sampled_from(SOURCES), _key),
    "lose": st.tuples(st.just("lose"), _client),
    "close": st.tuples(st.just("close"), _client),
    "delete": st.tuples(st.just("delete"), st.sampled_from(QUEUES)),
    "declare": st.tuples(st.just("declare"), st.sampled_from(QUEUES)),
}
_WEIGHTS = {"publish": 6, "consume": 3, "settle": 9, "cancel": 1, "lose": 1, "close": 1}
_WEIGHTED = [name for name in _OPERATIONS for _ in range(2 * _WEIGHTS.get(name, 0) or 1)]


@dataclass
class SideBySide:
    """Runs a plan on both brokers and compares them after each operation."""

    simulated: Simulated
    live: Broker
    plan: Plan
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._declared: set[str] = set()
        self._consumed: set[tuple[str, str]] = set()
        self._held: dict[str, list[tuple[Delivery, Delivery]]] = {name: [] for name in CLIENTS}
        self._seen: dict[str, int] = dict.fromkeys(CLIENTS, 0)
        self._publish_count = 0

    def run(self) -> None:
        """Run the whole plan, then drain every queue."""
        for broker in (self.simulated, self.live):
            broker.exchange("in")
            for name in SOURCES:
                broker.exchange(f"dead-{name}")
                broker.exchange(f"back-{name}")
        for queue in self.plan.queues:
            self._declare(queue.name)
        for operation in self.plan.operations:
            self._perform(operation)
        for client in CLIENTS:
            self._leave(client, "close")
        for queue in self.plan.queues:
            self._drain(queue.name)

    def _perform(self, operation: Op) -> None:
        name, *arguments = operation
        performer: Callable[..., bool] = getattr(self, f"_do_{name}")
        before = len(self.trace)
        self.trace.append(repr(operation))
        if performer(*arguments):
            self._compare()
        else:
            del self.trace[before:]

    def _do_publish(self, key: str, count: int, mandatory: bool) -> bool:
        for _ in range(count):
            self._publish_count += 1
            body = f"m{self._publish_count}"
            sent: list[Sent] = [
                broker.publish("in", key, body, mandatory=mandatory)
                for broker in (self.simulated, self.live)
            ]
            assert sent[0] == sent[1], self._story(f"simulated {sent[0]}, live {sent[1]}")
            self._compare()
        return True

    def _do_consume(self, index: int, prefetch: int) -> bool:
        possible = [
            (client, queue)
            for client in CLIENTS
            for queue in sorted(self._declared)
            if not self._uses(client, queue) and not self._uses(client, _sibling(queue))
        ]
        if not possible:
            return False
        client, queue = possible[index % len(possible)]
        self.trace.append(f"    {client} {queue}")
        for broker in (self.simulated, self.live):
            broker.consume(client, queue, prefetch)
        self._consumed.add((client, queue))
        return True

    def _uses(self, client: str, queue: str) -> bool:
        return (client, queue) in self._consumed or any(
            held.queue == queue for held, _ in self._held[client]
        )

    def _do_settle(self, index: int, how: str) -> bool:
        holders = [client for client in CLIENTS for _ in self._held[client]]
        if not holders:
            return False
        held = self._held[holders[index % len(holders)]]
        pair = held.pop(index % len(held))
        self.trace.append(f"    {pair[0].client} {pair[0].queue} {pair[0].body}")
        for broker, delivery in zip((self.simulated, self.live), pair, strict=True):
            match how:
                case "ack":
                    broker.ack(delivery)
                case "return" | "reject":
                    broker.reject(delivery, requeue=how == "return")
                case _:
                    broker.nack(delivery, requeue=how == "nack back")
        return True

    def _do_cancel(self, index: int) -> bool:
        if not self._consumed:
            return False
        client, queue = sorted(self._consumed)[index % len(self._consumed)]
        self.trace.append(f"    {client} {queue}")
        self._consumed.remove((client, queue))
        for broker in (self.simulated, self.live):
            broker.cancel(client, queue)
        return True

    def _do_unbind(self, queue: str, key: str) -> bool:
        for broker in (self.simulated, self.live):
            broker.unbind(queue, "in", key)
        return True

    def _do_bind(self, queue: str, key: str) -> bool:
        if queue not in self._declared:
            return False
        for broker in (self.simulated, self.live):
            broker.bind(queue, "in", key)
        return True

    def _do_lose(self, client: str) -> bool:
        return self._forget(client, "lose")

    def _do_close(self, client: str) -> bool:
        return self._forget(client, "close")

    def _do_delete(self, queue: str) -> bool:
        if queue not in self._declared:
            return False
        self._declared.remove(queue)
        self._consumed = {pair for pair in self._consumed if pair[1] != queue}
        for broker in (self.simulated, self.live):
            broker.delete(queue)
        return True

    def _do_declare(self, queue: str) -> bool:
        is_held = any(pair[0].queue == queue for held in self._held.values() for pair in held)
        if queue in self._declared or is_held:
            return False
        self._declare(queue)
        return True

    def _declare(self, name: str) -> None:
        queue = next(each for each in self.plan.queues if each.name == name)
        for broker in (self.simulated, self.live):
            broker.declare(queue)
        self._declared.add(name)

    def _forget(self, client: str, how: str) -> bool:
        uses = self._held[client] or any(pair[0] == client for pair in self._consumed)
        for broker in (self.simulated, self.live):
            getattr(broker, how)(client)
        self._held[client] = []
        self._seen[client] = 0
        self._consumed = {pair for pair in self._consumed if pair[0] != client}
        return bool(uses)

    def _leave(self, client: str, how: str) -> None:
        self.trace.append(f"{how} {client}, at the end")
        self._forget(client, how)
        self._compare()

    def _drain(self, queue: str) -> None:
        if queue not in self._declared:
            return
        self.trace.append(f"drain {queue}")
        for broker in (self.simulated, self.live):
            broker.consume("one", queue, prefetch=200)
        self._compare()
        self._leave("one", "close")
        self._do_delete(queue)

    def _compare(self) -> None:
        """Wait until the real broker shows what the simulated one does, and assert that it does."""
        counts = {client: len(self.simulated.events(client)) for client in CLIENTS}
        ready = {name: self.simulated.ready(name) for name in sorted(self._declared)}
        seen = self.live.settle(counts, ready)
        for client in CLIENTS:
            expected = self.simulated.events(client)[self._seen[client] :]
            found = self.live.events(client)[self._seen[client] :]
            assert _by_queue(found) == _by_queue(expected), self._story(
                f"{client}:\n  simulated {_shown(expected)}\n  live      {_shown(found)}\n"
                + _difference(expected, found)
            )
            self._seen[client] += len(expected)
            self._hold(client, expected, found)
        assert seen == ready, self._story(f"ready: simulated {ready}\n  live {seen}")

    def _hold(self, client: str, expected: tuple[Event, ...], found: tuple[Event, ...]) -> None:
        """Pair the deliveries of both brokers, queue by queue."""
        there = _by_queue(found)
        for queue, events in _by_queue(expected).items():
            pairs = zip(events, there[queue], strict=True)
            self._held[client] += [
                (mine, its)
                for mine, its in pairs
                if isinstance(mine, Delivery) and isinstance(its, Delivery)
            ]

    def _story(self, difference: str) -> str:
        queues = "\n".join(f"  {queue}" for queue in self.plan.queues)
        steps = "\n".join(f"  {step}" for step in self.trace)
        return f"{difference}\nwith\n{queues}\nafter\n{steps}"


def _difference(expected: tuple[Event, ...], found: tuple[Event, ...]) -> str:
    """Return the first events that differ, in full."""
    for mine, its in zip(expected, found, strict=False):
        if mine != its:
            return f"first:\n  simulated {mine}\n  live      {its}"
    return ""


def _shown(events: tuple[Event, ...]) -> str:
    """Return events in few words."""
    shown = []
    for event in events:
        text = f"{event.queue} gone"
        if isinstance(event, Delivery):
            deaths = " ".join(f"{queue}/{why}*{n}" for queue, why, n, _, _ in event.deaths)
            flags = f"{'again ' * event.redelivered}{event.delivery_count},{event.acquired_count}"
            text = f"{event.queue}:{event.body}({flags} {deaths})"
        shown.append(text)
    return " | ".join(shown)


def _sibling(queue: str) -> str:
    """Return the other queue of a pair."""
    return queue.removeprefix("grave-") if queue.startswith("grave-") else f"grave-{queue}"


def _by_queue(events: tuple[Event, ...]) -> dict[str, list[Event]]:
    sorted_out: dict[str, list[Event]] = {}
    for event in events:
        sorted_out.setdefault(event.queue, []).append(event)
    return sorted_out

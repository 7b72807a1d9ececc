"""Whole runs in memory: the real cores, joined by the simulator, with the checker at the end."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from teardown_lab.checker.history import History
from teardown_lab.checker.judgement import Judgement
from teardown_lab.checker.verdict import judge
from teardown_lab.experiment.client import Client, Experiment
from teardown_lab.experiment.client_actor import ClientActor
from teardown_lab.experiment.in_memory import services
from teardown_lab.experiment.standing import ClientState
from teardown_lab.simulator.broker import Published, SimulatedBroker
from teardown_lab.simulator.deliveries import ConsumerEvent
from teardown_lab.simulator.world import EPOCH_NS, World
from vm_protocol.actor import Actor
from vm_protocol.codec import Packet
from vm_protocol.effects import Core, Effect, Input
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

VM = "vm-0"
STEPS_MAX = 60_000
TIMEOUT_MS = 20_000


class TwiceBroker(SimulatedBroker):
    """Stores each message twice, as a publisher does that lost a confirm (confirms: duplicates).

    The journal stays as it is: its reader would see one record twice, not one message.
    """

    def __init__(self, once: tuple[str, ...]) -> None:
        self.once = once
        super().__init__(now_ns=EPOCH_NS)

    def publish(
        self, exchange: str, key: str, packet: Packet, *, mandatory: bool = False
    ) -> Published:
        published = super().publish(exchange, key, packet, mandatory=mandatory)
        if exchange not in self.once:
            super().publish(exchange, key, packet)
        return published


class ShuffledBroker(SimulatedBroker):
    """Hands over any queue's oldest delivery next, not the oldest of all; seeded."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        super().__init__(now_ns=EPOCH_NS)

    def next_event(self) -> ConsumerEvent | None:
        on_their_way = self._deliveries._on_their_way
        heads: dict[tuple[str, str], int] = {}
        for number, event in on_their_way.items():
            heads.setdefault((event.actor, event.queue), number)
        if not heads:
            return None
        return on_their_way.pop(self._random.choice(list(heads.values())))


class CheckedCore:
    """A core whose every step is taken twice, and must come out the same."""

    def __init__(self, core: Core[Any]) -> None:
        self.core = core
        self.actor = core.actor

    def initial(self) -> Any:
        return self.core.initial()

    def step(self, state: Any, event: Input) -> tuple[Any, tuple[Effect, ...]]:
        first = self.core.step(state, event)
        again = self.core.step(state, event)
        assert first == again, f"{self.actor} is not deterministic"
        assert hash(first[0]) == hash(again[0]), f"{self.actor}: equal states hash alike"
        return first


@dataclass(frozen=True)
class Run:
    """A finished run: how the client ended, the VM's records and everybody's, what still stands."""

    state: ClientState
    records: tuple[Record, ...]
    everything: tuple[Record, ...]
    world: World
    services: tuple[Actor[Any], ...]
    step_count: int

    @property
    def judgement(self) -> Judgement:
        """Return what the checker says."""
        return judge(History.of(self.records), VM)

    def queues_left(self) -> list[str]:
        """Return the queues of the VM and its client that are still there."""
        names = self.world.broker.queue_names()
        return [name for name in names if name.startswith((f"vcpu.{VM}.", "client."))]


def run(
    ordering: Ordering,
    scenario: Scenario,
    workers: int = 1,
    broker: SimulatedBroker | None = None,
    wrap: Callable[[Core[Any]], Core[Any]] | None = None,
    manager: Callable[[Actor[Any]], Any] | None = None,
    *,
    meanwhile: Callable[[World, Record], None] | None = None,
    timeout_ms: int = TIMEOUT_MS,
) -> Run:
    """Run an ordering until the client is done, nothing happens any more, or STEPS_MAX.

    `wrap` replaces cores, `manager` the manager's actor; `meanwhile` is told of each record after
    the step that has made it.
    """
    everything: list[Record] = []
    records: list[Record] = []
    world = World(everything.append)
    actors = services(min(workers, scenario.vcpus), scenario.vcpus)
    if manager is not None:
        actors[0] = manager(actors[0])
    if broker is not None:
        world.broker = broker
    for service in actors:
        if wrap is not None:
            service.core = wrap(service.core)
        world.add(service)
    experiment = Experiment(VM, ordering, scenario, "simulated", "simulated", timeout_ms)
    client = ClientActor(Client(experiment), records.append)
    if wrap is not None:
        client.core = wrap(client.core)
    world.add(client)
    steps = told = 0
    while client.state.phase != "done" and steps < STEPS_MAX and world.step():
        steps += 1
        while meanwhile is not None and told < len(everything):
            meanwhile(world, everything[told])
            told += 1
    return Run(client.state, tuple(records), tuple(everything), world, tuple(actors), steps)


def essence(finished: Run) -> dict[str, Any]:
    """Return what must not change, whatever was repeated or succeeded in a run."""
    judgement = finished.judgement
    return {
        "outcome": finished.state.outcome,
        "verdict": judgement.verdict,
        "counts": judgement.counts,
        "notes": judgement.notes,
        "violations": {(v.invariant, v.vcpu, v.message_id) for v in judgement.violations},
    }

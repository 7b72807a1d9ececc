"""What the services were seen to do: the catalogue, run in the simulator with every scenario.

Who sends a message where, and which service moves a metric, is observed here instead of being
kept by hand beside the code.
"""

import re
from functools import cache

from teardown_lab.experiment.client import Client, Experiment
from teardown_lab.experiment.client_actor import ClientActor
from teardown_lab.experiment.in_memory import run_in_memory, services
from teardown_lab.simulator.world import World
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.effects import Leaving
from vm_protocol.observations import Event
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

WORKERS = 2
SHAPES = (
    Scenario(async_pf=1, avic=True, nested=(0,)),
    Scenario(mmu="tdp", nested=(0,)),
    Scenario(in_guest=(0,)),
)
_KINDS = {"lab": "client"}
_PATTERNS = (
    (re.compile(r"^worker\.[^.]+\.(commands|replies)$"), r"worker.<id>.\1"),
    (re.compile(r"^client\.[^.]+\.replies$"), "client.<id>.replies"),
    (re.compile(r"^vm-\d+$"), "<vm>"),
    (re.compile(r"^vcpu\.[^.]+\.\d+\.\d+$"), "vcpu.<vm>.<index>.<incarnation>"),
)


@cache
def records() -> tuple[Record, ...]:
    """Return the records of all runs; the same ones every time."""
    found: list[Record] = []
    for name in catalogue_names():
        entry = catalogue_entry(name)
        for scenario in (entry.show, *SHAPES):
            found += _run(entry.ordering, scenario)
    found += _losing_hosts(catalogue_entry("unload-in-destroy").ordering)
    return tuple(found)


def _losing_hosts(ordering: Ordering) -> list[Record]:
    """Run one teardown whose one worker leaves, and whose other is stopped beyond its lease."""
    found: list[Record] = []
    world = World(found.append)
    for service in services(WORKERS, 4):
        world.add(service)
    client = ClientActor(Client(_experiment(ordering, Scenario(), remove=True)))
    world.add(client)
    _run_until(world, found, Event.TEARDOWN_STARTED)
    world.pause("worker.worker-1")
    world.tell("worker.worker-2", Leaving())
    _run_until(world, found, Event.HOST_LOST)
    world.resume("worker.worker-1")
    world.run(lambda: client.state.phase == "done")
    return found


def _run_until(world: World, found: list[Record], event: Event) -> None:
    world.run(lambda: any(record.event is event for record in found))


def _experiment(ordering: Ordering, scenario: Scenario, *, remove: bool) -> Experiment:
    return Experiment(
        vm="vm-0",
        ordering=ordering,
        scenario=scenario,
        broker="simulated",
        source="simulated",
        timeout_ms=60_000,
        remove=remove,
    )


def _run(ordering: Ordering, scenario: Scenario) -> list[Record]:
    """Run one teardown; a second client then asks for a VM of the same name, and is refused."""
    found: list[Record] = []
    world = World(found.append)
    for service in services(WORKERS, scenario.vcpus):
        world.add(service)
    for remove, shape in ((False, scenario), (True, scenario.model_copy(update={"seed": 1}))):
        run_in_memory(_experiment(ordering, shape, remove=remove), WORKERS, world=world)
    return found


def kind_of(actor: str) -> str:
    """Return what an actor is: client, manager, monitor or worker."""
    kind = actor.partition(".")[0]
    return _KINDS.get(kind, kind)


def pattern_of(name: str) -> str:
    """Return a queue's name or a routing key with its ids as placeholders."""
    for pattern, shown in _PATTERNS:
        if pattern.match(name):
            return pattern.sub(shown, name)
    return name

"""What the services were seen to do: the catalogue, run in the simulator with every scenario.

Who sends a message where, and which service moves a metric, is observed here instead of being
kept by hand beside the code.
"""

import re
from functools import cache

from teardown_lab.experiment.client import Experiment
from teardown_lab.experiment.in_memory import run_in_memory, services
from teardown_lab.simulator.world import World
from vm_manager.catalogue import catalogue_entry, catalogue_names
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
    return tuple(found)


def _run(ordering: Ordering, scenario: Scenario) -> list[Record]:
    """Run one teardown; a second client then asks for a VM of the same name, and is refused."""
    found: list[Record] = []
    world = World(found.append)
    for service in services(WORKERS, scenario.vcpus):
        world.add(service)
    for remove, shape in ((False, scenario), (True, scenario.model_copy(update={"seed": 1}))):
        experiment = Experiment(
            vm="vm-0",
            ordering=ordering,
            scenario=shape,
            broker="simulated",
            source="simulated",
            timeout_ms=60_000,
            remove=remove,
        )
        run_in_memory(experiment, WORKERS, world=world)
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

"""An experiment on the simulated broker: manager, monitor, workers and client in one process."""

from collections.abc import Callable
from math import ceil
from typing import Any

from teardown_lab.experiment.client import Client, Experiment
from teardown_lab.experiment.client_actor import ClientActor
from teardown_lab.experiment.standing import ClientState
from teardown_lab.simulator.world import BATCH_RECORDS, HANDLED_AT_ONCE, World, handling_ns
from vcpu_worker import VcpuWorker
from vm_manager import DeadLetterMonitor, VmManager
from vm_protocol import limits
from vm_protocol.actor import Actor
from vm_protocol.wire import Record


def services(workers: int, vcpus: int) -> list[Actor[Any]]:
    """Return the actors of a stack: manager, monitor, and workers that share the vCPUs evenly."""
    epoch = limits.MANAGER_EPOCH
    capacity = ceil(vcpus / workers)
    made: list[Actor[Any]] = [Actor(VmManager(), epoch), Actor(DeadLetterMonitor(), epoch)]
    made += [Actor(VcpuWorker(f"worker-{n + 1}", capacity)) for n in range(workers)]
    return made


def run_in_memory(
    experiment: Experiment,
    workers: int,
    on_record: Callable[[Record], None] = lambda _: None,
    world: World | None = None,
) -> ClientState:
    """Run an experiment in virtual time; return the state in which it ended.

    Args:
        experiment: What to run.
        workers: How many workers own the vCPUs.
        on_record: Called with each record of the VM as it arrives.
        world: A world whose services are running already; None makes one.
    """
    if world is None:
        vcpus = experiment.scenario.vcpus
        batch = BATCH_RECORDS if vcpus > HANDLED_AT_ONCE else 1
        world = World(handling_ns=handling_ns(vcpus), batch_records=batch)
        for service in services(workers, experiment.scenario.vcpus):
            world.add(service)
    client = ClientActor(Client(experiment), on_record)
    world.add(client)
    world.run(lambda: client.state.phase == "done")
    return client.state

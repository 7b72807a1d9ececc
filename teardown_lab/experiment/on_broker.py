"""An experiment on a real broker: the client runs here, the services in processes of their own."""

import asyncio
from collections.abc import Callable
from typing import Final

from service_runtime.rabbit_driver import RabbitDriver
from service_runtime.tracing.traced import traced
from teardown_lab.broker.address import endpoint_of
from teardown_lab.experiment.client import (
    LOST_TIMER,
    REMOVAL_MS,
    Client,
    ClientState,
    Collector,
    Experiment,
)
from teardown_lab.experiment.giving_up import give_up
from teardown_lab.experiment.stack import Stack, StackFailed
from teardown_lab.experiment.watch import Watch
from teardown_lab.experiment.whereabouts import Whereabouts
from vm_protocol.actor import Actor
from vm_protocol.wire import Observe, Record

BROKER_S: Final = 10.0
"""How much longer than its own bound a run may take to write its end down and to clear away."""


def run_on_broker(
    experiment: Experiment,
    url: str,
    stack: Stack | None,
    on_record: Callable[[Record], None] = lambda _: None,
) -> tuple[Client, ClientState]:
    """Run an experiment on RabbitMQ; return the client and the state in which it ended.

    Args:
        experiment: What to run.
        url: The broker.
        stack: The services of this run; None when they run elsewhere (`--attach`): then a run
            that is out of time cannot be told from services that are gone.
        on_record: Called with each record of the VM as it arrives.

    Raises:
        StackFailed: A service of the stack ended in the middle of the run, or is without the broker
            when the run is out of time.
        SessionLost: The broker went away and did not come back in time.
        TopologyMismatch: The broker holds our queues with other arguments.
        TopologyMissing: No services have ever run there.
    """
    answers = stack.answers if stack is not None else (lambda: False)
    whereabouts = Whereabouts(experiment.vm, stack.worker_ids if stack is not None else None)
    watch = Watch(url, whereabouts)

    def take(record: Record) -> None:
        whereabouts.feed(record)
        on_record(record)

    collector = Collector(experiment.vm, take)
    client = Client(experiment, collector, answers, lambda: watch.missing)
    with traced("teardown", url) as trace:
        return client, asyncio.run(_run(client, url, stack, trace, watch))


async def _run(
    client: Client, url: str, stack: Stack | None, trace: Observe, watch: Watch
) -> ClientState:
    actor = Actor(client)
    # Services that run already have declared the topology, or were given it: so is it to us.
    endpoint = endpoint_of(url, topology_given=stack is None)
    driver = RabbitDriver(actor, endpoint, trace, lambda: actor.state.phase == "done")
    failed: list[Exception] = []
    loop = asyncio.get_running_loop()

    def fail(failure: Exception) -> None:
        failed.append(failure)
        driver.stop()

    def on_failure(why: str) -> None:
        loop.call_soon_threadsafe(fail, StackFailed(why))

    # The client's own bounds need a broker that answers; this one holds without it.
    patience_s = (client.experiment.timeout_ms + REMOVAL_MS) / 1000 + BROKER_S
    silence = loop.create_task(give_up(lambda: driver.is_blocked, patience_s))
    silence.add_done_callback(lambda task: None if task.cancelled() else fail(task.result()))
    watching = loop.create_task(watch.run(lambda: driver.fire(LOST_TIMER)))
    try:
        if stack is not None:
            stack.watch(on_failure)
        await driver.run()
    finally:
        silence.cancel()
        watching.cancel()
        if stack is not None:
            stack.unwatch()
    if failed:
        raise failed[0]
    if stack is not None and actor.state.outcome == "timed-out-alive":
        stack.require_connected()
    return actor.state

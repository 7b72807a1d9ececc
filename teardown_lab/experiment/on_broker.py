"""An experiment on a real broker: the client runs here, the services in processes of their own."""

import asyncio
from collections.abc import Callable

from service_runtime.rabbit_driver import RabbitDriver
from teardown_lab.experiment.client import Client, ClientState, Collector, Experiment
from teardown_lab.experiment.stack import Stack, StackFailed
from vm_protocol.actor import Actor
from vm_protocol.wire import Record


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
        StackFailed: A service of the stack ended in the middle of the run.
        TopologyMismatch: The broker holds our queues with other arguments.
    """
    answers = stack.answers if stack is not None else (lambda: False)
    client = Client(experiment, Collector(experiment.vm, on_record), answers)
    return client, asyncio.run(_run(client, url, stack))


async def _run(client: Client, url: str, stack: Stack | None) -> ClientState:
    actor = Actor(client)
    driver = RabbitDriver(actor, url, lambda _: None, lambda: actor.state.phase == "done")
    failed: list[str] = []

    def fail(why: str) -> None:
        failed.append(why)
        driver.stop()

    if stack is not None:
        loop = asyncio.get_running_loop()

        def on_failure(why: str) -> None:
            loop.call_soon_threadsafe(fail, why)

        stack.watch(on_failure)
    await driver.run()
    if failed:
        raise StackFailed(failed[0])
    return actor.state

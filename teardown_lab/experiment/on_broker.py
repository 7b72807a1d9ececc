"""An experiment on a real broker: the client runs here, the services in processes of their own."""

import asyncio
from collections.abc import Callable, Coroutine
from time import time_ns
from typing import Any, Final

from service_runtime.rabbit_driver import RabbitDriver
from service_runtime.tracing.traced import traced
from teardown_lab.broker.address import endpoint_of
from teardown_lab.experiment.client import REMOVAL_MS, Client, Experiment
from teardown_lab.experiment.client_actor import ClientActor
from teardown_lab.experiment.stack import Stack, StackFailed
from teardown_lab.experiment.standing import Around, ClientState, Lost, ToldClient
from teardown_lab.experiment.watch import Watch, give_up
from teardown_lab.experiment.whereabouts import Whereabouts
from vm_protocol.wire import Observe, Record

CLOSING_S: Final = 10.0
"""How much longer than its own bound a run may take to write its end down and to clear away."""


def run_on_broker(
    experiment: Experiment,
    url: str,
    stack: Stack | None,
    on_record: Callable[[Record], None] = lambda _: None,
) -> ClientState:
    """Run an experiment on RabbitMQ; return the state in which it ended.

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
    with traced("teardown", url) as trace:
        return asyncio.run(_Run(experiment, url, stack, on_record, trace).run())


class _Run:
    """A driver with the client, and what goes on beside it."""

    def __init__(
        self,
        experiment: Experiment,
        url: str,
        stack: Stack | None,
        on_record: Observe,
        trace: Observe,
    ) -> None:
        self._experiment = experiment
        self._stack = stack
        self._on_record = on_record
        self._whereabouts = Whereabouts(experiment.vm, stack.worker_ids if stack else None)
        self._watch = Watch(url, self._whereabouts)
        self._client = ClientActor(Client(experiment), self._take, self._look_around)
        # With services of somebody else's the topology is there: it is looked up, not declared.
        endpoint = endpoint_of(url, topology_given=stack is None)
        self._driver = RabbitDriver(self._client, endpoint, trace, self._is_done)
        self._beside: list[asyncio.Task[None]] = []
        self._failed: list[BaseException] = []

    async def run(self) -> ClientState:
        self._loop = asyncio.get_running_loop()
        self._begin(self._give_up())
        self._begin(self._watch.run(self._on_loss))
        try:
            if self._stack is not None:
                self._stack.watch(self._on_failure)
            await self._driver.run()
        finally:
            for task in self._beside:
                task.cancel()
            if self._stack is not None:
                self._stack.unwatch()
        if self._failed:
            raise self._failed[0]
        if self._stack is not None and self._client.state.outcome == "timed-out-alive":
            self._stack.require_connected()
        return self._client.state

    def _is_done(self) -> bool:
        return self._client.state.phase == "done"

    def _take(self, record: Record) -> None:
        self._whereabouts.feed(record)
        self._on_record(record)

    # --- beside the driver ------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something whose failure ends the run."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._beside.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._fail(failure)

    def _fail(self, failure: BaseException) -> None:
        self._failed.append(failure)
        self._driver.stop()

    def _on_failure(self, why: str) -> None:
        """Take, on any thread, the end of a service."""
        self._loop.call_soon_threadsafe(self._fail, StackFailed(why))

    async def _give_up(self) -> None:
        # The client's own bounds need a broker that answers; this one holds without it.
        patience_s = (self._experiment.timeout_ms + REMOVAL_MS) / 1000 + CLOSING_S
        raise await give_up(lambda: self._driver.connectivity.is_blocked, patience_s)

    # --- what the client is told ------------------------------------------------------------

    def _tell(self, told: ToldClient) -> None:
        self._driver.enqueue(lambda: self._client.tell(told, time_ns()))

    def _on_loss(self) -> None:
        self._tell(Lost(self._watch.missing))

    def _look_around(self) -> None:
        """Ask the services whether they live; they may take a while, so not on this thread."""
        self._begin(self._ask())

    async def _ask(self) -> None:
        answers = self._stack is not None and await asyncio.to_thread(self._stack.answers)
        self._tell(Around(answers, self._watch.missing))

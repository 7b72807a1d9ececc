"""A lab: one broker and one stack of services, on which any number of experiments run.

Services are started once; each experiment gets a VM of its own, a history file and a judgement
that the checker makes from that file alone.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from service_runtime import logs
from teardown_lab import results
from teardown_lab.broker.address import knock, without_password
from teardown_lab.broker.looking import look_at
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.gathering import gather
from teardown_lab.checker.history import load_history
from teardown_lab.checker.judgement import Judgement
from teardown_lab.checker.verdict import judge_facts
from teardown_lab.experiment.client import Experiment
from teardown_lab.experiment.in_memory import run_in_memory
from teardown_lab.experiment.on_broker import run_on_broker
from teardown_lab.experiment.stack import Stack, StackFailed, StackOptions, started
from teardown_lab.experiment.standing import ClientState
from teardown_lab.leftovers.clean_up import remove_at
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.choice import ProvidedBroker, provide_broker, running_broker
from vm_protocol import topology
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox
from vm_protocol.wire import Record

Say = Callable[[str], None]

_VM_LOST = "vm-not-found"
"""The manager's answer to the teardown of a VM that it does not know, and nor does its log."""


class RunRefused(Exception):
    """The manager refuses the run; the text has its code and the way out."""


@dataclass(frozen=True, slots=True)
class LabOptions:
    """What a lab stands on.

    `broker` is "auto", "simulated" or a URL; `attach` uses services that run already; `vcpus` is
    the largest VM that the workers together must hold; `gate` is the address of a replay's
    conductor. Of several `managers` one is active and the others stand by.
    """

    broker: str = "auto"
    workers: int = 2
    vcpus: int = 4
    attach: bool = False
    log_level: str = "warning"
    gate: str = ""
    managers: int = 1


@dataclass(frozen=True, slots=True)
class RunOptions:
    """One run: its bound in seconds, where its history goes, whether what it made stays.

    Without a path of its own the history goes to results/, where the oldest give way to it.
    """

    timeout_s: float = 60.0
    history: Path | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """A run's judgement, and the facts and the file that it was made from."""

    judgement: Judgement
    facts: Facts
    history: Path


class Lab:
    """See the module; made by `open_lab`.

    Attributes:
        neighbours: What to say of somebody else's services at the same broker; empty: none.
    """

    def __init__(
        self, provided: ProvidedBroker, stack: Stack | None, run: RunFolder, say: Say
    ) -> None:
        self._say = say
        self.neighbours = ""
        self.provided = provided
        self.stack = stack
        self._run = run
        self._run_count = 0

    @property
    def is_simulated(self) -> bool:
        """Tell whether there is no real broker."""
        return self.provided.url is None

    def run(
        self,
        ordering: Ordering,
        scenario: Scenario,
        workers: int,
        options: RunOptions,
        on_record: Callable[[Record], None] = lambda _: None,
    ) -> Finished:
        """Run one experiment and judge it.

        Raises:
            RunRefused: The manager takes no such command.
            StackFailed, SessionLost: The services or the broker broke down, or have no room.
            OSError: The history cannot be written.
        """
        vm = f"vm-{scenario.seed}" if self.is_simulated else f"vm-{secrets.token_hex(4)}"
        path = options.history or results.new_history(ordering.name, vm)
        experiment = Experiment(
            vm=vm,
            ordering=ordering,
            scenario=scenario,
            broker=self._broker_name(),
            source="simulated" if self.is_simulated else "run",
            timeout_ms=int(options.timeout_s * 1000),
            remove=not options.keep and not self.is_simulated,
            whole=self.is_simulated or (self._has_own_broker() and self._run_count == 0),
        )
        self._run_count += 1
        with results.written(path) as file:

            def write(record: Record) -> None:
                file.write(record.to_line() + "\n")
                on_record(record)

            state = self._conduct(experiment, workers, write)
        if options.history is None and (removed := results.remove_oldest()):
            self._say(removed)
        if state.refusal == _VM_LOST:
            raise StackFailed(
                f"the manager answers {_VM_LOST}: somebody has removed this VM, or the queue "
                f"{topology.PROGRESS_QUEUE.name}, from which a new manager knows it; run it again"
            )
        if state.refusal in ("no-places", "host-lost"):
            raise StackFailed(_refusal(state.refusal, state.why))
        if state.refusal is not None:
            raise RunRefused(_refusal(state.refusal, state.why))
        facts = gather(load_history(path), vm)
        return Finished(judge_facts(facts), facts, path)

    def _conduct(
        self, experiment: Experiment, workers: int, write: Callable[[Record], None]
    ) -> ClientState:
        url = self.provided.url
        if url is None:
            return run_in_memory(experiment, workers, write)
        if self.provided.kind != "url":
            return run_on_broker(experiment, url, self.stack, write)
        self._run.add_queues(url, _queues_to_remove(experiment))
        if not experiment.remove:
            return run_on_broker(experiment, url, self.stack, write)
        self._run.add_vm(url, experiment.vm)
        state = run_on_broker(experiment, url, self.stack, write)
        self._run.forget_vm(url, experiment.vm)
        return state

    def _has_own_broker(self) -> bool:
        return self.provided.kind in ("private-node", "container")

    def _broker_name(self) -> str:
        if self.provided.url is None:
            return "simulated"
        return self.stack.broker if self.stack is not None else knock(self.provided.url)


@contextmanager
def open_lab(options: LabOptions, say: Say, forward: Say = lambda _: None) -> Iterator[Lab]:
    """Provide a broker and services; take away at the end what was started.

    Args:
        options: What to stand on.
        say: Gets one line that says which broker is used.
        forward: Gets log lines of the services.

    Raises:
        BrokerUnavailable: The broker is not there.
        StackFailed: The services do not come up.
    """
    logs.spare_others()
    with ExitStack() as stack:
        run = stack.enter_context(RunFolder())
        if options.attach:
            provided = running_broker(options.broker)
        else:
            provided = stack.enter_context(provide_broker(options.broker, run))
        say(provided.line)
        if provided.kind == "url" and provided.url is not None:
            # What a killed run has asked for would take the workers' room.
            for run_id in remove_at(provided.url):
                say(f"cleaned up: what the killed run {run_id} left at this broker")
        services: Stack | None = None
        if provided.url is not None and not options.attach:
            wanted = StackOptions(
                provided.url,
                options.workers,
                options.vcpus,
                f"worker-{secrets.token_hex(3)}",
                options.log_level,
                provided.kind == "url",
                options.gate,
                options.managers,
            )
            services = stack.enter_context(started(wanted, run, forward))
        lab = Lab(provided, services, run, say)
        if services is not None and provided.kind == "url" and provided.url is not None:
            lab.neighbours = second_stack(provided.url, options.workers)
            if lab.neighbours:
                say(f"note: {lab.neighbours}")
        yield lab


def _queues_to_remove(experiment: Experiment) -> tuple[str, ...]:
    """Return the queues that a run has on a broker which outlives it; a VM that is kept stays."""
    vcpus = experiment.scenario.vcpus if experiment.remove else 0
    mailboxes = (Mailbox(experiment.vm, vcpu).name for vcpu in range(vcpus))
    return (topology.client_replies(experiment.vm).name, *mailboxes)


def _refusal(code: str, why: str) -> str:
    ways = {
        "vm-limit-reached": "the manager keeps as many VMs as it can; remove some",
        "host-lost": "a worker was gone before all vCPUs were placed; its log says why",
        "connections-lost": "the services lose the broker again and again; their logs say why",
    }
    return f"the manager refuses: {code}; {why or ways.get(code, 'run it again')}"


def second_stack(url: str, own_workers: int) -> str:
    """Return a sentence about other services at the same broker; empty: there are none.

    Their workers would take this stack's vCPUs. Asked once this stack's own workers consume. Two
    stacks that are started at the same moment both see each other. Workers are counted, not
    managers: of a queue with a single active consumer 3.10 tells only that one. A worker that is
    full consumes no more, but it takes nothing either.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    queue = topology.PLACEMENT_QUEUE.name
    seen = look_at(url, [queue]).get(queue)
    if seen is None or seen.consumer_count <= own_workers:
        return ""
    workers = f"{seen.consumer_count} workers consume {queue}"
    return (
        f"a second stack of services runs at {without_password(url)}: {workers}, of which "
        f"{own_workers} are this stack's, and each takes the other's vCPUs. Give each stack a "
        "virtual host of its own (amqp://user:password@host:5672/NAME), let each start its own "
        "broker (private, container), or end the other one"
    )

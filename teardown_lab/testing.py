"""What the pytest plugin's fixtures do: a broker for tests, and one call from ordering to verdict.

Nothing here needs pytest; the names of this module are for type annotations in tests.
"""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from teardown_lab.checker.findings import Counts, DeadLetter, Hazard, Violation
from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, RunOptions
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.choice import BrokerUnavailable, provide_broker
from teardown_lab.own_broker.container import image_name, rabbitmq_container
from teardown_lab.own_broker.private_node import PrivateNode
from teardown_lab.own_broker.reach import OVERRIDES, reach
from teardown_lab.report.text import describe
from vm_manager.catalogue import OrderingError, catalogue_entry, catalogue_names, read_ordering
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

__all__ = [
    "BrokerUnavailable",
    "NoBroker",
    "OrderingError",
    "Outcome",
    "RunOrdering",
    "broker_for_tests",
]


class NoBroker(Exception):
    """`auto` finds no real broker on this machine."""


@contextmanager
def broker_for_tests(choice: str) -> Iterator[str]:
    """Give the URL of a real broker, and remove at the end what was started for it.

    Args:
        choice: "auto", "private" (a node of an installed rabbitmq-server), "container", or a URL.

    Raises:
        NoBroker: `auto`, and there is none.
        BrokerUnavailable: The broker that was chosen does not answer or start.
    """
    with ExitStack() as stack:
        if choice == "private":
            yield stack.enter_context(PrivateNode()).url
        elif choice == "container":
            yield stack.enter_context(_container())
        elif choice == "auto" or choice.startswith(("amqp://", "amqps://")):
            run = stack.enter_context(RunFolder())
            provided = stack.enter_context(provide_broker(choice, run))
            if provided.url is None:
                raise NoBroker("no AMQP_URL, no rabbitmq-server and no RabbitMQ image here")
            yield provided.url
        else:
            raise BrokerUnavailable("write auto, private, container, simulated or an amqp:// URL")


@contextmanager
def _container() -> Iterator[str]:
    """Run a RabbitMQ container: by testcontainers where it is installed, else by `docker`."""
    try:
        with warnings.catch_warnings():
            # The module decorates with what testcontainers itself has deprecated (4.15).
            warnings.simplefilter("ignore", DeprecationWarning)
            from testcontainers.community.rabbitmq import RabbitMqContainer
    except ModuleNotFoundError:
        with RunFolder() as run, rabbitmq_container(run) as url:
            yield url
        return
    image, reached = image_name(), reach()
    password = reached.password()
    with ExitStack() as stack:
        try:
            container = RabbitMqContainer(image, username="guest", password=password)
            # By itself, testcontainers publishes on every address of the engine's machine.
            container.ports = {"5672/tcp": (reached.publish, None)}  # type: ignore[dict-item]
            stack.enter_context(container)
            host = container.get_container_host_ip()
        except Exception as error:  # docker's errors and pika's have no base of their own
            raise BrokerUnavailable(
                f"the container of {image} does not start, or is not reached at {reached.host} "
                f"({OVERRIDES[-1]} names another host): {error}"
            ) from error
        yield f"amqp://guest:{password}@{host}:{container.get_exposed_port(5672)}/%2F"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the checker says of one run.

    `verdict` is "safe", "violated" or "inconclusive"; `explanation` is the report that
    `teardown run` prints; `history` is the file that the verdict was made from.
    """

    judgement: Judgement
    explanation: str
    history: Path

    @property
    def verdict(self) -> str:
        """The answer."""
        return str(self.judgement.verdict)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Each broken invariant, with the vCPU, the message and a sentence that explains it."""
        return self.judgement.violations

    @property
    def broken(self) -> dict[str, int]:
        """How often each invariant was broken, by its name."""
        return dict(Counter(str(each.invariant) for each in self.violations))

    @property
    def hazards(self) -> tuple[Hazard, ...]:
        """What went well this time only."""
        return self.judgement.hazards

    @property
    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """What the broker moved to the dead letters, and why."""
        return self.judgement.dead_letters

    @property
    def counts(self) -> Counts:
        """Commands, flushes, deliveries, acknowledgements, dead letters."""
        return self.judgement.counts


class RunOrdering:
    """The callable behind the fixture `run_ordering`; see `__call__`."""

    def __init__(
        self,
        lab: Lab,
        *,
        workers: int,
        vcpus_max: int,
        root: Path,
        folder: Path,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._lab = lab
        self._workers = workers
        self._vcpus_max = vcpus_max
        self._root = root
        self._folder = folder
        self._tell = tell
        self._numbers = count(1)

    def __call__(
        self, ordering: str | Path | Ordering, *, timeout_s: float = 30.0, **scenario: Any
    ) -> Outcome:
        """Tear one VM down and judge it.

        Args:
            ordering: A name from the catalogue, the path of a YAML file (relative to pytest's
                root folder), or the YAML text itself.
            timeout_s: A run that takes longer is stuck.
            scenario: Fields of the scenario: `vcpus=4`, `mmu="tdp"`, `nested=[0]` ...

        Raises:
            OrderingError: The ordering is wrong; names file, line, column and the valid words.
            ValueError: There is no such ordering, or a field of the scenario is wrong.
        """
        chosen = self._find(ordering)
        shape = self._shape(scenario)
        history = self._folder / f"{chosen.name}-{next(self._numbers)}.jsonl"
        options = RunOptions(timeout_s=timeout_s, history=history)
        workers = min(self._workers, shape.vcpus)
        finished = self._lab.run(chosen, shape, workers, options)
        explanation = describe(finished.judgement, finished.facts)
        self._tell(explanation)
        return Outcome(finished.judgement, explanation, history)

    def _find(self, ordering: str | Path | Ordering) -> Ordering:
        if isinstance(ordering, Ordering):
            return ordering
        if isinstance(ordering, str) and "\n" in ordering:
            return read_ordering(ordering, "(text)").ordering
        if ordering in catalogue_names():
            return catalogue_entry(str(ordering)).ordering
        path = self._root / ordering
        if path.is_file():
            return read_ordering(path.read_text(encoding="utf-8"), str(ordering)).ordering
        known = ", ".join(catalogue_names())
        close = get_close_matches(str(ordering), catalogue_names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"there is neither a file {path} nor a shipped ordering of: {known}{hint}")

    def _shape(self, scenario: dict[str, Any]) -> Scenario:
        try:
            # As JSON, in which a list may stand for the tuple of `nested` and `in_guest`.
            shape = Scenario.model_validate_json(json.dumps(scenario))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            valid = ", ".join(Scenario.model_fields)
            close = get_close_matches(place, Scenario.model_fields, n=1)
            meant = first["type"] == "extra_forbidden" and close
            hint = f"; did you mean {close[0]!r}?" if meant else ""
            raise ValueError(
                f"scenario: {place}: {first['msg']}; fields are {valid}{hint}"
            ) from None
        if shape.vcpus > self._vcpus_max:
            raise ValueError(
                f"vcpus={shape.vcpus}, but the workers hold {self._vcpus_max}: "
                f"set `teardown_vcpus = {shape.vcpus}` in pytest's ini file"
            )
        return shape

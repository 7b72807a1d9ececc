"""Pairs of one teardown of ours and one of the yardstick, by turns, on one broker."""

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from teardown_lab.benchmark.breakdown import journal_confirm_seconds, read_stories
from teardown_lab.benchmark.clients import BenchFailed, Caller, OurClient, RawClient, calling
from teardown_lab.benchmark.cpu import CpuMeter
from teardown_lab.benchmark.hops import HOPS
from teardown_lab.benchmark.yardstick import RAW_MANAGER, yardstick
from teardown_lab.experiment.lab import Say
from teardown_lab.experiment.stack import StackOptions, started
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.choice import URL_VARIABLE, BrokerUnavailable, provide_broker
from teardown_lab.own_broker.private_node import PrivateNode, server_script
from vm_manager.catalogue import catalogue_entry
from vm_protocol.scenario import Scenario

ORDERING: Final = "unload-in-destroy"

_JOURNAL_BACK: Final = timedelta(seconds=30)
"""A stream is searched by its chunks' times; what was before is passed over."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One teardown of each, in seconds from the command to its answer."""

    ours_s: float
    yardstick_s: float

    @property
    def ratio(self) -> float:
        """Return how many times as long ours took."""
        return self.ours_s / self.yardstick_s


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured with one number of vCPUs; hops and CPU are means per teardown."""

    vcpus: int
    pairs: tuple[Pair, ...]
    delivery_count: int
    record_count: int
    ours_hops_s: tuple[float, ...]
    yardstick_hops_s: tuple[float, ...]
    cpu_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Report:
    """All results of a run, and what they were measured on."""

    broker: str
    cores: int
    workers: int
    journal_confirm_s: float
    results: tuple[Measurement, ...]


def measure(broker: str, sizes: tuple[int, ...], pair_count: int, workers: int, say: Say) -> Report:
    """Measure pairs for each number of vCPUs; the first pair of each warms up and is dropped.

    Raises:
        BrokerUnavailable: There is no real broker.
        StackFailed, BenchFailed: Services or the yardstick do not answer.
    """
    with ExitStack() as stack:
        run = stack.enter_context(RunFolder())
        url, broker_pid = stack.enter_context(_broker(broker, run))
        wanted = StackOptions(
            url, workers, max(sizes), f"bench-{secrets.token_hex(3)}", broker_outlives_run=True
        )
        services = stack.enter_context(started(wanted, run, lambda _: None))
        raw = stack.enter_context(yardstick(url, workers, run))
        caller = stack.enter_context(calling(url))
        ours = {service.name: service.process.pid for service in services.services}
        pids = {**ours, **({"broker": broker_pid} if broker_pid else {})}
        raw_pids = {**raw.pids, **({"broker (yardstick)": broker_pid} if broker_pid else {})}
        bench = _Bench(url, caller, pids, raw_pids)
        results = []
        for vcpus in sizes:
            say(f"{pair_count} pairs with {vcpus} vCPUs ...")
            results.append(bench.measure(vcpus, pair_count))
        confirm = journal_confirm_seconds(url)
        return Report(services.broker, os.cpu_count() or 1, workers, confirm, tuple(results))


@contextmanager
def _broker(choice: str, run: RunFolder) -> Iterator[tuple[str, int | None]]:
    """Give a broker's URL, and its pid if it is a private node of this run."""
    if choice == "auto" and not os.environ.get(URL_VARIABLE) and server_script() is not None:
        with PrivateNode(run=run) as node:
            yield node.url, node.pid
        return
    with provide_broker(choice, run) as provided:
        if provided.url is None:
            raise BrokerUnavailable(f"a bench needs a real RabbitMQ; {provided.line}")
        yield provided.url, None


class _Bench:
    """One stack and one yardstick; measures one size after the other."""

    def __init__(
        self, url: str, caller: Caller, pids: dict[str, int], raw_pids: dict[str, int]
    ) -> None:
        self._url = url
        self._caller = caller
        self._raw = RawClient(caller, RAW_MANAGER)
        self._pids = pids
        self._raw_pids = raw_pids

    def measure(self, vcpus: int, pair_count: int) -> Measurement:
        self._pair(vcpus, CpuMeter({}), CpuMeter({}))
        since = datetime.now(UTC) - _JOURNAL_BACK
        ours_cpu, raw_cpu = CpuMeter(self._pids), CpuMeter(self._raw_pids)
        done = [self._pair(vcpus, ours_cpu, raw_cpu) for _ in range(pair_count)]
        stories = read_stories(self._url, [vm for vm, _, _ in done], since)
        told = list(stories.values())
        if len({story.delivery_count for story in told}) != 1:
            raise BenchFailed("teardowns of one kind differ in their deliveries")
        cpu = {**ours_cpu.seconds, **raw_cpu.seconds}
        return Measurement(
            vcpus=vcpus,
            pairs=tuple(pair for _, pair, _ in done),
            delivery_count=told[0].delivery_count,
            record_count=sum(story.record_count for story in told) // pair_count,
            ours_hops_s=_means([story.hops_ns(vcpus) for story in told]),
            yardstick_hops_s=_means([hops for _, _, hops in done]),
            cpu_s={name: seconds / pair_count for name, seconds in cpu.items()},
        )

    def _pair(
        self, vcpus: int, ours_cpu: CpuMeter, raw_cpu: CpuMeter
    ) -> tuple[str, Pair, tuple[int, ...]]:
        vm = f"bench-{secrets.token_hex(4)}"
        client = OurClient(self._caller, vm)
        client.create(Scenario(vcpus=vcpus, ticker=False))
        ours_cpu.begin()
        ours_s = client.destroy(catalogue_entry(ORDERING).ordering)
        ours_cpu.end()
        client.remove()
        self._raw.create(f"{vm}-raw", vcpus)
        raw_cpu.begin()
        yardstick_s, hops_ns = self._raw.destroy()
        raw_cpu.end()
        self._raw.remove()
        return vm, Pair(ours_s, yardstick_s), hops_ns


def _means(rows: list[tuple[int, ...]]) -> tuple[float, ...]:
    """Return the mean of each hop in seconds."""
    return tuple(sum(row[hop] for row in rows) / len(rows) / 1e9 for hop in range(len(HOPS)))

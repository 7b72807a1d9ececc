"""What recovery costs, and how long it takes: `python benchmarks/recovery.py [--pairs N]`.

The first table compares whole teardowns with the write-ahead log and without it, in pairs on two
private nodes of the same machine, in turns. The second shows how long a successor needs that finds
many living VMs in the log, until it is active. Ratios compare; seconds are this machine's.
"""

import argparse
import os
import re
import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.request import urlopen

from teardown_lab.benchmark.clients import OurClient, calling
from teardown_lab.experiment.lab import Lab, LabOptions, RunOptions, open_lab
from teardown_lab.own_broker.private_node import PrivateNode
from vm_manager.catalogue import catalogue_entry
from vm_protocol.scenario import Scenario

ORDERINGS = ("unload-in-destroy", "fenced-parallel-destroy")


@contextmanager
def lab(vcpus: int, write_ahead: str, managers: int = 1) -> Iterator[Lab]:
    """Give services on a node of their own, with the log or without it."""
    before = dict(os.environ)
    os.environ["TEARDOWN_WRITE_AHEAD"] = write_ahead
    try:
        with (
            PrivateNode() as node,
            open_lab(LabOptions(node.url, vcpus=vcpus, managers=managers), lambda _: None) as made,
        ):
            yield made
    finally:
        os.environ.clear()
        os.environ.update(before)


def teardown_s(made: Lab, name: str, vcpus: int) -> float:
    """Return the seconds of one teardown."""
    ordering = catalogue_entry(name).ordering
    finished = made.run(ordering, Scenario(vcpus=vcpus, ticker=False), 2, RunOptions(timeout_s=300))
    assert not finished.judgement.violations, finished.judgement.violations
    seconds = finished.judgement.seconds.teardown
    assert seconds is not None
    return seconds


def cost(vcpus: int, pairs: int) -> None:
    """Print the first table."""
    with ExitStack() as stack:
        ahead = stack.enter_context(lab(vcpus, "on"))
        without = stack.enter_context(lab(vcpus, "off"))
        for name in ORDERINGS:
            measured = []
            for number in range(pairs + 1):
                turn = [(teardown_s(each, name, vcpus)) for each in (ahead, without)]
                if number:  # the first pair warms up
                    measured.append(turn)
            ratios = sorted(first / second for first, second in measured)
            first, second = (statistics.median(column) for column in zip(*measured, strict=True))
            print(
                f"{name}, {vcpus} vCPUs, {pairs} pairs: with the log {first:.3f} s, without "
                f"{second:.3f} s, ratio {statistics.median(ratios):.2f} "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
                flush=True,
            )


def metric(made: Lab, name: str, manager: int) -> float:
    """Return a metric of one of the managers."""
    assert made.stack is not None
    with urlopen(made.stack.managers[manager].metrics_url, timeout=30) as page:  # noqa: S310 - ours
        text = page.read().decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def takeover(vms: int, vcpus: int) -> None:
    """Print the second table."""
    with ExitStack() as stack:
        made = stack.enter_context(lab(vms * vcpus, "on", managers=2))
        assert made.stack is not None
        assert made.provided.url is not None
        caller = stack.enter_context(calling(made.provided.url))
        scenario = Scenario(vcpus=vcpus, ticker=False)
        for number in range(vms):
            OurClient(caller, f"vm-{secrets.token_hex(4)}-{number}").create(scenario)
        active = 0 if metric(made, "teardown_manager_elected", 0) else 1
        heir = 1 - active
        made.stack.managers[active].process.kill()
        killed_s = time.monotonic()
        while not metric(made, "teardown_manager_elected", heir):
            time.sleep(0.02)
        active_s = time.monotonic() - killed_s
        entries, seconds, known = (
            metric(made, f"teardown_{name}", heir)
            for name in ("recovery_entries", "recovery_seconds", "vms")
        )
        print(
            f"{vms} living VMs of {vcpus} vCPUs: {entries:.0f} entries folded in {seconds:.2f} s; "
            f"active {active_s:.2f} s after the kill; {known:.0f} VMs known",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=7)
    options.add_argument("--vcpus", type=int, default=64)
    options.add_argument("--vms", type=int, default=200)
    given = options.parse_args()
    cost(given.vcpus, given.pairs)
    takeover(given.vms, 8)


if __name__ == "__main__":
    main()

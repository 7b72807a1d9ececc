"""What recovery costs, and how long it takes: `python benchmarks/recovery.py [--pairs N]`.

The first table compares whole teardowns with the write-ahead log and without it, in pairs on two
private nodes of the same machine, in turns. The second shows how long a successor needs that finds
many living VMs in the log, until it is active. Ratios compare; seconds are this machine's.
"""

import argparse
import os
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=7)
    options.add_argument("--vcpus", type=int, default=64)
    given = options.parse_args()
    cost(given.vcpus, given.pairs)


if __name__ == "__main__":
    main()

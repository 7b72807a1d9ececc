"""Thirty teardowns of each ordering on services started once: alike, quick, and nothing left.

Quick is judged by the median, so that a busy machine does not fail what is right.
"""

from pathlib import Path

import pytest
from integration.tools.amqp import existing
from support import expectations

from teardown_lab.checker.history import load_history
from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, LabOptions, RunOptions, open_lab
from teardown_lab.own_broker.private_node import PrivateNode
from vm_manager.catalogue import catalogue_entry
from vm_protocol import topology
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox
from vm_protocol.wire import Record

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

RUNS = 30
VCPUS = 4
TEARDOWN_S_MAX = 1.0
"""Each takes about 0.04 s on a quiet machine. A busy one may stall any single run for longer than a
second, whoever is at fault; more than half of them it stalls only if we are 20 times slower."""


def teardown_s(records: tuple[Record, ...]) -> float:
    """From the client's DestroyVm to its VmDestroyed, by the client's clock."""
    lab = [record for record in records if record.actor == "lab"]
    at = {
        (record.event, record.details.get("type")): record.at_ns
        for record in lab
        if record.event in (Event.MESSAGE_SENT, Event.MESSAGE_RECEIVED)
    }
    sent = at[Event.MESSAGE_SENT, "DestroyVm"]
    return (at[Event.MESSAGE_RECEIVED, "VmDestroyed"] - sent) / 1e9


def said(judgement: Judgement) -> tuple[object, ...]:
    """What must not differ from run to run; the ticker's requests are no part of it."""
    violations = tuple(sorted((each.invariant, each.vcpu) for each in judgement.violations))
    return judgement.verdict, violations, judgement.counts, judgement.vacuity, judgement.notes


def run(lab: Lab, name: str, history: Path) -> Judgement:
    ordering = catalogue_entry(name).ordering
    return lab.run(ordering, Scenario(vcpus=VCPUS), 2, RunOptions(history=history)).judgement


def test_thirty_teardowns_of_each_ordering_are_alike(
    lone_node: PrivateNode, tmp_path: Path
) -> None:
    names: list[str] = []
    with open_lab(LabOptions(broker=lone_node.url, workers=2, vcpus=VCPUS), print) as lab:
        assert lab.stack is not None
        own = [queue for service in lab.stack.services[1:] for queue in _queues_of(service.name)]
        for name in ("unload-in-destroy", "unload-in-destroy-wipe-last"):
            judgements = [run(lab, name, tmp_path / f"{name}-{n}.jsonl") for n in range(RUNS)]

            assert len({said(judgement) for judgement in judgements}) == 1
            cell = expectations.wipe_last(VCPUS, "distinct", "shadow")
            wanted = cell.use_after_free if name.endswith("wipe-last") else 0
            assert len(judgements[0].violations) == wanted
            histories = [load_history(tmp_path / f"{name}-{n}.jsonl").records for n in range(RUNS)]
            seconds = sorted(teardown_s(records) for records in histories)
            print(f"{name}: median {seconds[RUNS // 2]:.3f} s, longest {seconds[-1]:.3f} s")
            assert seconds[RUNS // 2] < TEARDOWN_S_MAX
            for judgement in judgements:
                names.append(topology.client_replies(judgement.vm).name)
                names += [Mailbox(judgement.vm, vcpu).name for vcpu in range(VCPUS)]
    shared = [queue.name for queue in topology.SHARED_QUEUES]
    assert existing(lone_node.url, [*names, *own, *shared]) == shared


def _queues_of(worker: str) -> tuple[str, str]:
    return topology.worker_commands(worker).name, topology.worker_replies(worker).name

"""The bench runs and says what it promises; how long anything took is nobody's matter here."""

import json
from pathlib import Path

import pytest
from integration.tools.cli import Place, teardown

from teardown_lab.benchmark.hops import HOPS
from teardown_lab.cli.bench import describe
from teardown_lab.own_broker.private_node import PrivateNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

VCPUS = 2
DELIVERIES = VCPUS + VCPUS * VCPUS + VCPUS + VCPUS * (VCPUS + 1) // 2
"""The scan of the IOAPIC, zap-all's requests and its flush, the flushes of the unloads."""


def test_one_pair_with_two_vcpus_has_every_field(lone_node: PrivateNode, tmp_path: Path) -> None:
    place = Place(tmp_path)
    size = ("--vcpus", str(VCPUS), "--pairs", "1")
    result = teardown(place, "bench", *size, "--broker", lone_node.url, "--json")

    assert result.returncode == 0, result.stderr
    assert place.run_ids() == []
    report = json.loads(result.stdout)
    (measured,) = report["results"]
    (pair,) = measured["pairs"]
    ratio = pair["ours_s"] / pair["yardstick_s"]
    assert (report["schema"], report["workers"]) == (1, 2)
    assert report["broker"].startswith("RabbitMQ ")
    assert measured["ratio"] == {"median": ratio, "min": ratio, "max": ratio}
    assert measured["delivery_count"] == DELIVERIES
    assert len(measured["ours_hops_s"]) == len(measured["yardstick_hops_s"]) == len(HOPS)
    assert all(seconds >= 0 for seconds in measured["ours_hops_s"])
    assert sum(measured["ours_hops_s"]) <= pair["ours_s"]
    assert sum(measured["yardstick_hops_s"]) <= pair["yardstick_s"]
    assert {"vm-manager", "yardstick-manager"} <= measured["cpu_s"].keys()
    shown = "\n".join(describe(report))
    assert all(hop in shown for hop in HOPS)


def test_a_bench_of_the_simulated_broker_is_refused(tmp_path: Path) -> None:
    result = teardown(Place(tmp_path), "bench", "--broker", "simulated")

    assert result.returncode == 4
    assert "a bench needs a real RabbitMQ" in result.stderr

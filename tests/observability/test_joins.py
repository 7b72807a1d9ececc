"""The dashboard's join with the broker's identity holds however the broker is scraped.

promtool evaluates queries of the checked-in dashboard on the series that each layout makes.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from observability.tools.files import panel_queries
from observability.tools.prometheus import program

IDENTITY = "rabbitmq_identity_info"
LAYOUTS: dict[str, tuple[list[dict[str, str]], dict[str, str], dict[str, str]]] = {
    # labels of each identity; of what /metrics shows; of what /metrics/detailed shows
    "one job for both endpoints, as the cluster operator's ServiceMonitor has it": (
        [
            {"job": "rabbitmq", "instance": "10.0.0.1:15692", "rabbitmq_endpoint": "aggregated"},
            {"job": "rabbitmq", "instance": "10.0.0.1:15692", "rabbitmq_endpoint": "detailed"},
        ],
        {"job": "rabbitmq", "instance": "10.0.0.1:15692"},
        {"job": "rabbitmq", "instance": "10.0.0.1:15692"},
    ),
    "a job for each endpoint, as in the shipped settings": (
        [
            {"job": "rabbitmq", "instance": "rabbitmq:15692"},
            {"job": "rabbitmq-detailed", "instance": "rabbitmq:15692"},
        ],
        {"job": "rabbitmq", "instance": "rabbitmq:15692"},
        {"job": "rabbitmq-detailed", "instance": "rabbitmq:15692"},
    ),
    "only one of the jobs shows an identity": (
        [{"job": "rabbitmq", "instance": "rabbitmq:15692"}],
        {"job": "rabbitmq", "instance": "rabbitmq:15692"},
        {"job": "rabbitmq-detailed", "instance": "rabbitmq:15692"},
    ),
    "instances that are called by their pods, the same in two namespaces": (
        [{"job": "r", "namespace": "ours", "instance": "rabbitmq-0", "pod": "rabbitmq-0"}],
        {"job": "r", "namespace": "ours", "instance": "rabbitmq-0", "pod": "rabbitmq-0"},
        {"job": "r", "namespace": "ours", "instance": "rabbitmq-0", "pod": "rabbitmq-0"},
    ),
}
OTHERS = {"job": "r", "namespace": "theirs", "instance": "rabbitmq-0"}
"""A broker of somebody else's, scraped by the same Prometheus."""


def series(name: str, labels: dict[str, str], value: int) -> dict[str, str]:
    shown = ", ".join(f'{key}="{text}"' for key, text in labels.items())
    return {"series": f"{name}{{{shown}}}", "values": f"{value}x40"}


def query(title: str, metric: str) -> str:
    """Return the dashboard's query of a metric, with Grafana's variables filled in."""
    (expr,) = (
        each.expr
        for each in panel_queries()
        if each.place.startswith(title) and metric in each.expr
    )
    filled = expr.replace("$rabbitmq_cluster", "prod")
    for variable in ("$job", "$namespace", "$cluster"):
        filled = filled.replace(variable, ".*")
    return filled


def hold(folder: Path, test: dict[str, Any]) -> None:
    file = folder / "join_test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [{"interval": "15s", **test}]}))
    command = [program("promtool"), "test", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def of_prod(labels: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    return [{**each, "rabbitmq_cluster": "prod", "rabbitmq_node": "rabbit@a"} for each in labels]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_joins_hold_with_any_scrape_layout(
    layout: tuple[list[dict[str, str]], dict[str, str], dict[str, str]], tmp_path: Path
) -> None:
    identities, plain, detailed = layout
    queue = {"queue": "manager.commands", "vhost": "/"}
    hold(
        tmp_path,
        {
            "input_series": [
                *(series(IDENTITY, labels, 1) for labels in of_prod(identities)),
                series(IDENTITY, {**OTHERS, "rabbitmq_cluster": "theirs"}, 1),
                series("rabbitmq_connections", plain, 5),
                series("rabbitmq_connections", OTHERS, 700),
                series("rabbitmq_detailed_queue_messages_ready", {**detailed, **queue}, 3),
                series("rabbitmq_detailed_queue_messages_ready", {**OTHERS, **queue}, 90),
            ],
            "promql_expr_test": [
                {
                    "expr": query("Connected actors", "rabbitmq_connections"),
                    "eval_time": "5m",
                    "exp_samples": [{"labels": "{}", "value": 5}],
                },
                {
                    "expr": query("Queues", "rabbitmq_detailed_queue_messages_ready"),
                    "eval_time": "5m",
                    "exp_samples": [{"labels": '{queue="manager.commands"}', "value": 3}],
                },
            ],
        },
    )


def test_the_services_are_shown_by_name_and_apart_by_namespace(tmp_path: Path) -> None:
    at = {"job": "teardown", "instance": "10.0.0.7:9464"}
    north, south = {**at, "namespace": "north"}, {**at, "namespace": "south"}
    named = {"service": "vcpu-worker"}
    expr = query("Instances", "teardown_live_vcpus")
    hold(
        tmp_path,
        {
            "input_series": [
                series("teardown_instance_info", {**north, **named, "name": "worker-a"}, 1),
                series("teardown_instance_info", {**south, **named, "name": "worker-b"}, 1),
                series("teardown_live_vcpus", north, 4),
                series("teardown_tombstones", north, 1),
                series("teardown_live_vcpus", south, 8),
                series("teardown_tombstones", south, 0),
            ],
            "promql_expr_test": [
                {
                    "expr": expr,
                    "eval_time": "5m",
                    "exp_samples": [
                        {"labels": '{name="worker-a"}', "value": 5},
                        {"labels": '{name="worker-b"}', "value": 8},
                    ],
                }
            ],
        },
    )

"""The checked-in dashboard: it is what its code makes, and Grafana can show it."""

import re
import subprocess
import sys
from collections import Counter
from typing import Any

from observability.tools.files import (
    GRAFANA,
    SCRAPES,
    dashboard,
    marker_queries,
    panel_queries,
    panels,
    read_yaml,
    selectors,
)

COLUMNS = 24


def test_the_dashboard_is_what_its_code_makes() -> None:
    command = [sys.executable, str(GRAFANA / "generate.py"), "--check"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr


def test_every_panel_has_an_id_a_title_a_text_and_queries_of_its_own() -> None:
    ids = Counter(panel["id"] for panel in dashboard()["panels"])

    assert set(ids.values()) == {1}
    assert 0 not in ids
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters)), panel["title"]
        assert all(letters), panel["title"]


def test_panels_stand_on_the_grid_side_by_side() -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for panel in dashboard()["panels"]:
        at: dict[str, int] = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS
        for x in range(at["x"], at["x"] + at["w"]):
            taken.update((x, y) for y in range(at["y"], at["y"] + at["h"]))

    assert set(taken.values()) == {1}
    rows = max(y for _, y in taken) + 1
    assert len(taken) == rows * COLUMNS, "there is a hole"


def test_the_rows_are_the_six_questions_in_their_order() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]

    assert rows == [
        "Is teardown safe now?",
        "Which invariant broke, and where?",
        "How long do teardowns and flush round trips take?",
        "How deep are mailboxes?",
        "Recovery: who is active, and what was lost?",
        "What does the broker do?",
    ]


def test_what_the_broker_says_is_joined_with_its_cluster_s_name() -> None:
    """As RabbitMQ's own dashboards do it: their variable chooses a cluster of many."""
    asked = [each.expr for each in panel_queries() if "rabbitmq_" in each.expr]
    join = re.compile(
        r"\* on \(cluster, namespace, instance\) group_left \(rabbitmq_cluster\) "
        r"max by \([^)]*\) \(rabbitmq_identity_info\{rabbitmq_cluster=\"\$rabbitmq_cluster\""
    )

    assert len(asked) > 10
    assert [expr for expr in asked if not join.search(expr)] == []


def test_everything_is_asked_of_the_data_source_that_is_chosen() -> None:
    def sources(node: Any) -> list[str]:
        if isinstance(node, list):
            return [source for each in node for source in sources(each)]
        if isinstance(node, dict):
            own = [node["datasource"]["uid"]] if isinstance(node.get("datasource"), dict) else []
            return own + [source for each in node.values() for source in sources(each)]
        return []

    found = set(sources(dashboard()))
    variables = {each["name"]: each["type"] for each in dashboard()["templating"]["list"]}

    assert found == {"${datasource}", "-- Grafana --"}
    assert variables == {
        "datasource": "datasource",
        "rabbitmq_cluster": "query",
        "job": "query",
        "namespace": "query",
        "cluster": "query",
    }


def test_everything_of_ours_is_asked_of_the_jobs_namespaces_and_clusters_that_are_chosen() -> None:
    """All of them is `.*`, which also finds what has no such label."""
    chosen = 'job=~"$job", namespace=~"$namespace", cluster=~"$cluster"}'
    asked = [
        selector
        for each in [*panel_queries(), *marker_queries()]
        for name, selector in selectors(each.expr)
        if name.startswith("teardown_")
    ]

    assert len(asked) > 40
    assert [selector for selector in asked if not selector.endswith(chosen)] == []
    for variable in dashboard()["templating"]["list"]:
        if variable["name"] in ("job", "namespace", "cluster"):
            assert (variable["includeAll"], variable["allValue"]) == (True, ".*")


def test_totals_are_counters_and_no_increase_that_is_extrapolated() -> None:
    totals = [panel for panel in panels() if panel["type"] == "stat"]

    assert len(totals) > 4
    for panel in totals:
        for target in panel["targets"]:
            assert "increase" not in target["expr"], panel["title"]


def test_chaos_experiments_are_marked_by_tags() -> None:
    (marker,) = (each for each in dashboard()["annotations"]["list"] if "target" in each)

    assert marker["target"]["tags"] == ["teardown", "chaos"]
    assert marker["target"]["type"] == "tags"


def test_the_data_source_knows_the_interval_of_scrapes() -> None:
    (source,) = read_yaml(GRAFANA / "provisioning/datasources/datasources.yml")["datasources"]

    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == read_yaml(SCRAPES)["global"]["scrape_interval"]

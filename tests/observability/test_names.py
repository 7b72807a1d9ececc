"""Names of metrics: what is read is exported, and what is exported is read."""

import re
from pathlib import Path

import pytest
from observability.conftest import Watched
from observability.tools.files import (
    ALERTS_TEST,
    PAGES,
    alert_queries,
    marker_queries,
    panel_queries,
    selectors,
)

pytestmark = pytest.mark.rabbitmq

NO_METRICS = {"teardown_lab", "rabbitmq_prometheus", "rabbitmq_management", "rabbitmq_cluster"}
"""A package, plugins, and a label."""

NAME = re.compile(r"\b(?:teardown|rabbitmq)_[a-z0-9_]+\b")


def read_metrics() -> set[str]:
    """Return the metrics that the dashboard and the alerts read."""
    asked = [*panel_queries(), *marker_queries(), *alert_queries()]
    return {name for each in asked for name, _ in selectors(each.expr)} - {"ALERTS"}


def exported(pages: list[str]) -> dict[str, str]:
    """Return the exported metrics and their types; the client's own ..._created are none."""
    found = {
        name: kind
        for page in pages
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE)
    }
    return {name: kind for name, kind in found.items() if not name.endswith("_created")}


def series_names(name: str, kind: str) -> set[str]:
    """Return the names under which a metric can be read."""
    if kind in ("histogram", "summary"):
        return {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    return {name}


def test_every_metric_that_is_read_is_exported(watched: Watched) -> None:
    metrics = exported(list(watched.pages.values()))
    readable = {each for name, kind in metrics.items() for each in series_names(name, kind)}

    assert read_metrics() - readable == set()


def test_every_metric_of_ours_is_read_by_a_panel_or_an_alert(watched: Watched) -> None:
    read = read_metrics()

    unread = {
        name
        for name, kind in exported([watched.pages["teardown"]]).items()
        if name.startswith("teardown_") and not series_names(name, kind) & read
    }
    assert unread == set()


@pytest.mark.parametrize("page", [*PAGES, ALERTS_TEST], ids=lambda page: page.name)
def test_every_metric_that_a_page_names_is_exported(watched: Watched, page: Path) -> None:
    metrics = exported(list(watched.pages.values()))
    readable = {each for name, kind in metrics.items() for each in series_names(name, kind)}

    named = set(NAME.findall(page.read_text(encoding="utf-8"))) - NO_METRICS
    assert named - readable - set(metrics) == set()


def test_the_metrics_page_documents_every_metric_of_ours(watched: Watched) -> None:
    (page,) = (page for page in PAGES if page.name == "metrics.md")
    documented = set(NAME.findall(page.read_text(encoding="utf-8")))

    ours = {name for name in exported([watched.pages["teardown"]]) if "teardown_" in name}
    assert ours - documented == set()

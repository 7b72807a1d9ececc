"""The dashboard, the alerts, the scrape settings and the pages about them, as data."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "deploy" / "grafana"
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
ALERTS_TEST = PROMETHEUS / "alerts_test.yml"
SCRAPES = PROMETHEUS / "prometheus.yml"
RUNBOOKS = ROOT / "docs" / "runbooks"
PAGES = [ROOT / "docs" / "monitoring.md", ROOT / "docs" / "metrics.md", *RUNBOOKS.glob("*.md")]


@dataclass(frozen=True)
class Asked:
    """A PromQL expression, and where it stands."""

    place: str
    expr: str


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "teardown.json").read_text())
    return board


def read_yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels, rows aside."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in read_yaml(ALERTS)["groups"] for rule in group["rules"]]


def panel_queries() -> Iterator[Asked]:
    for panel in panels():
        for target in panel["targets"]:
            yield Asked(f"{panel['title']} {target['refId']}", target["expr"])


def marker_queries() -> Iterator[Asked]:
    """Yield the queries of annotations."""
    for marker in dashboard()["annotations"]["list"]:
        if "expr" in marker:
            yield Asked(f"marker {marker['name']}", marker["expr"])


def alert_queries() -> Iterator[Asked]:
    for rule in rules():
        yield Asked(rule["alert"], rule["expr"])


_LABEL_LISTS = re.compile(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")
_SELECTOR = re.compile(r"\b((?:teardown|rabbitmq)_\w+|ALERTS)\b(\{[^}]*\})?")


def selectors(expr: str) -> list[tuple[str, str]]:
    """Return the metrics that an expression reads, each with its whole selector."""
    bare = _LABEL_LISTS.sub("", expr)
    return [(found[1], found[0]) for found in _SELECTOR.finditer(bare)]

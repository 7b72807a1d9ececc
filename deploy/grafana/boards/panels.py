"""What a panel is: a question's panels are data, nothing here knows of Grafana's builders."""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["stat", "lines", "bars", "heatmap", "table"]

CLUSTER: Final = "rabbitmq_cluster"
"""The variable that names the broker whose metrics are shown."""

_IDENTITY: Final = (
    f'* on (instance, job) group_left ({CLUSTER}) rabbitmq_identity_info{{{CLUSTER}="${CLUSTER}"}}'
)


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and how its series are named."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; `says` is the text behind its title.

    `levels` colour a value from a number on; `texts` stand for a value.
    """

    title: str
    says: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    unit: str = "short"
    width: int = 8
    levels: tuple[tuple[float, str], ...] = ()
    texts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A row of the dashboard: a question and the panels that answer it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Marker:
    """An annotation: moments at which an expression has a value, or that somebody has tagged."""

    name: str
    colour: str
    expr: str = ""
    tags: tuple[str, ...] = ()


def of_broker(expr: str) -> str:
    """Return a query for the shown broker only, joined as RabbitMQ's own dashboards do."""
    return f"{expr} {_IDENTITY}"


def rate(metric: str) -> str:
    """Return the rate of a counter."""
    return f"rate({metric}[$__rate_interval])"


def increase(metric: str) -> str:
    """Return by how much a counter grows."""
    return f"increase({metric}[$__rate_interval])"


def quantiles(histogram: str, *shares: float) -> tuple[Query, ...]:
    """Return one query for each quantile of a histogram."""
    buckets = f"sum by (le) ({rate(histogram)})"
    return tuple(
        Query(f"histogram_quantile({share}, {buckets})", f"{share:.0%}") for share in shares
    )

"""What a panel is: a question's panels are data, nothing here knows of Grafana's builders."""

import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["stat", "lines", "bars", "heatmap", "table"]

CLUSTER: Final = "rabbitmq_cluster"
"""The variable that names the broker whose metrics are shown."""

SCOPE: Final = ("job", "namespace", "cluster")
"""Labels that scrape settings put on; a variable for each chooses the services that are shown."""

_MATCHERS: Final = ", ".join(f'{label}=~"${label}"' for label in SCOPE)
_OURS: Final = re.compile(r"\b(teardown_\w+)(?:\{([^}]*)\})?")
_PLACE: Final = "cluster, namespace, instance"
"""What tells one process from all others, however many jobs scrape it."""

# One process may show its identity twice: each endpoint of the broker has it, in one job or in two.
_IDENTITY: Final = (
    f"* on ({_PLACE}) group_left ({CLUSTER}) max by ({_PLACE}, {CLUSTER}) "
    f'(rabbitmq_identity_info{{{CLUSTER}="${CLUSTER}", cluster=~"$cluster"}})'
)
_NAME: Final = f"* on ({_PLACE}, job) group_left (name) teardown_instance_info"


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


def named(expr: str) -> str:
    """Return a query whose series bear the name of their instance: a container's, a pod's."""
    return f"{expr} {_NAME}"


def scoped(expr: str) -> str:
    """Return a query for the services that the variables choose; absent labels are empty ones."""

    def chosen(found: re.Match[str]) -> str:
        own = f"{found[2]}, " if found[2] else ""
        return f"{found[1]}{{{own}{_MATCHERS}}}"

    return _OURS.sub(chosen, expr)


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

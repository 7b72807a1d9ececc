"""Every query of the dashboard and of the alerts, asked of a Prometheus that watched a real run."""

import math
from collections import Counter

import pytest
from observability.conftest import Watched
from observability.tools.files import (
    Asked,
    alert_queries,
    marker_queries,
    panel_queries,
    selectors,
)
from observability.tools.prometheus import wait_until

pytestmark = pytest.mark.rabbitmq

RANGE = "1m"
"""Stands for Grafana's own ranges: it holds both rounds."""

ABSENT_BY_NATURE = {
    "teardown_messages_returned_total": "no message was returned; its types are no closed set",
}

PANEL_QUERIES = list(panel_queries())
ALL_QUERIES = [*PANEL_QUERIES, *marker_queries(), *alert_queries()]


def place(asked: Asked) -> str:
    return asked.place


def expanded(expr: str, watched: Watched) -> str:
    """Return an expression with Grafana's variables filled in, as Grafana does."""
    for variable in ("$__rate_interval", "$__range"):
        expr = expr.replace(variable, RANGE)
    expr = expr.replace("$rabbitmq_cluster", watched.cluster)
    for variable in ("$job", "$namespace", "$cluster"):
        expr = expr.replace(variable, ".*")
    return expr


@pytest.mark.parametrize("asked", PANEL_QUERIES, ids=place)
def test_a_panels_query_has_data(watched: Watched, asked: Asked) -> None:
    found = watched.prometheus.query(expanded(asked.expr, watched), watched.at)

    values = [float(series["value"][1]) for series in found]
    assert [value for value in values if not math.isnan(value)]


@pytest.mark.parametrize("asked", ALL_QUERIES, ids=place)
def test_a_query_is_understood_and_all_that_it_selects_is_there(
    watched: Watched, asked: Asked
) -> None:
    expr = expanded(asked.expr, watched)

    watched.prometheus.query(expr, watched.at)

    selected = selectors(expr)
    absent = {
        selector
        for name, selector in selected
        if name not in ABSENT_BY_NATURE and not watched.prometheus.has_series(selector)
    }
    assert selected
    assert absent == set()


def test_a_stuck_teardown_and_a_use_after_free_set_off_their_alerts_and_no_other(
    watched: Watched,
) -> None:
    def fired() -> set[str]:
        found = watched.prometheus.query('ALERTS{component="teardown", alertstate="firing"}')
        return {series["metric"]["alertname"] for series in found}

    wait_until("alerts", lambda: fired() == {"UseAfterFreeSeen", "TeardownStuck"})


def test_prometheus_counts_what_the_checker_judged(watched: Watched) -> None:
    letters = Counter(
        (str(letter.invariant or "none"), letter.reason)
        for judgement in watched.judgements
        for letter in judgement.dead_letters
    )
    assert {invariant for invariant, _ in letters} == {"use-after-free", "stuck"}

    def counted() -> dict[tuple[str, str], int]:
        found = watched.prometheus.query(
            "sum by (invariant, reason) (teardown_dead_letters_total) > 0"
        )
        return {
            (series["metric"]["invariant"], series["metric"]["reason"]): int(series["value"][1])
            for series in found
        }

    def counted_by_broker(reason: str) -> float | None:
        metric = f"rabbitmq_global_messages_dead_lettered_{reason}_total"
        return watched.prometheus.value(f"sum({metric})")

    wait_until(f"{letters} counted", lambda: counted() == letters)
    rejected = sum(number for (_, reason), number in letters.items() if reason == "rejected")
    wait_until("the broker's count", lambda: counted_by_broker("rejected") == rejected)


def test_no_series_bears_the_name_of_a_vm(watched: Watched) -> None:
    found = watched.prometheus.query("rabbitmq_detailed_queue_messages_ready", watched.at)

    queues = {series["metric"]["queue"] for series in found}
    assert {"manager.commands", "teardown.dead-letters", "vcpu.placement"} <= queues
    assert {queue for queue in queues if "vm-" in queue} == set()

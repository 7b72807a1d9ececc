"""Counters of services, read over HTTP as Prometheus does."""

from collections import Counter
from collections.abc import Mapping
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and its labels, sorted."""

Values = tuple[str, ...]
"""The values of a sample's labels, in the order of the labels' names."""


def scrape(urls: Mapping[str, str]) -> Counter[Series]:
    """Return all samples of several services, added up."""
    found: Counter[Series] = Counter()
    for url in urls.values():
        with urlopen(url, timeout=30) as response:  # noqa: S310 - our own URL
            text = response.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    return found


def gained(
    before: Counter[Series], after: Counter[Series], name: str
) -> dict[tuple[str, ...], int]:
    """Return by how much a counter has grown, by its labels."""
    grown: dict[Values, int] = {}
    for (sample, labels), value in after.items():
        growth = int(value - before[sample, labels])
        if sample == name and growth:
            grown[tuple(value for _, value in labels)] = growth
    return grown

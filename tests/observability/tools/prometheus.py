"""A real Prometheus on a free port of 127.0.0.1, with its data in a temporary folder."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import pytest
import yaml
from observability.tools.files import ALERTS, SCRAPES, read_yaml
from support.needs import BROKER, need

from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.node_settings import free_ports

SCRAPE_INTERVAL = "1s"
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.1


def program(name: str) -> str:
    """Return where a program is; without it the test is skipped, or fails where CI asks for it."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    need(found, f"{name} (deploy/install_prometheus.sh gets it)", BROKER)
    assert found is not None, "needed"
    return found


def wait_until(what: str, is_so: Callable[[], bool]) -> None:
    """Wait until something is so, and fail if it does not become so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:.0f} s: {what}"
        time.sleep(POLL_SECONDS)


class Prometheus:
    """The HTTP API of a Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def is_ready(self) -> bool:
        try:
            with urlopen(f"{self._url}/-/ready", timeout=2) as answer:  # noqa: S310 - our own URL
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def query(self, expr: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the series of an expression; an error of Prometheus fails the test."""
        arguments = {"query": expr} if at is None else {"query": expr, "time": f"{at:.3f}"}
        result = self._get("query", arguments)
        assert result["resultType"] == "vector", expr
        found: list[dict[str, Any]] = result["result"]
        return found

    def value(self, expr: str) -> float | None:
        """Return the value of an expression that has at most one series."""
        found = self.query(expr)
        assert len(found) <= 1, expr
        return float(found[0]["value"][1]) if found else None

    def has_series(self, selector: str) -> bool:
        return bool(self._get("series", {"match[]": selector}))

    def healthy_targets(self) -> set[tuple[str, str]]:
        """Return the job and address of each target whose last scrape succeeded."""
        return {
            (each["labels"]["job"], each["labels"]["instance"])
            for each in self._get("targets", {"state": "active"})["activeTargets"]
            if each["health"] == "up"
        }

    def _get(self, path: str, arguments: dict[str, str]) -> Any:
        url = f"{self._url}/api/v1/{path}?{urlencode(arguments)}"
        try:
            with urlopen(url, timeout=30) as answer:  # noqa: S310 - our own URL
                return json.load(answer)["data"]
        except HTTPError as error:
            pytest.fail(f"{arguments}: {error.read().decode()}")


def settings(targets: dict[str, list[str]]) -> dict[str, Any]:
    """Return the shipped settings with other targets and a shorter interval, and nothing else."""
    shipped: dict[str, Any] = read_yaml(SCRAPES)
    shipped["global"] = {
        "scrape_interval": SCRAPE_INTERVAL,
        "scrape_timeout": SCRAPE_INTERVAL,
        "evaluation_interval": SCRAPE_INTERVAL,
    }
    shipped["rule_files"] = [str(ALERTS)]
    for job in shipped["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    return shipped


def addresses(*urls: str) -> list[str]:
    """Return the host and port of each URL."""
    return [urlsplit(url).netloc for url in urls]


@contextmanager
def scraping(run: RunFolder, folder: Path, targets: dict[str, list[str]]) -> Iterator[Prometheus]:
    """Run a Prometheus until it has scraped every target once, and longer.

    Args:
        run: Where its process is recorded.
        folder: For its settings, data and log.
        targets: Addresses by job.
    """
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings(targets)), encoding="utf-8")
    url = f"127.0.0.1:{free_ports().amqp}"
    with (folder / "prometheus.log").open("wb") as log:
        process = run.spawn(
            [
                program("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={url}",
            ],
            "prometheus",
            stdout=log,
            stderr=log,
        )
    prometheus = Prometheus(f"http://{url}")
    wanted = {(job, address) for job, each in targets.items() for address in each}
    try:
        wait_until("Prometheus answers", prometheus.is_ready)
        wait_until(f"{wanted} scraped", lambda: prometheus.healthy_targets() >= wanted)
        yield prometheus
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)

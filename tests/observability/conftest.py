"""A real run that a real Prometheus has watched: made once, for all that is asked about it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from observability.tools.prometheus import Prometheus, addresses, program, scraping, wait_until
from support.needs import need_server
from support.runs import tear_down

from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, LabOptions, open_lab
from teardown_lab.leftovers.run_folder import RunFolder
from teardown_lab.own_broker.node_settings import free_ports
from teardown_lab.own_broker.private_node import PrivateNode

ORDERINGS = ("unload-in-destroy", "unload-in-destroy-wipe-last", "zap-all-per-vcpu")
"""Safe; use-after-frees; stuck."""

ROUNDS = 2
"""A rate needs something to happen after its series was seen."""

VCPUS = 3

ENDED = "sum(teardown_duration_seconds_count)"
DEAD_LETTER_QUEUE = 'rabbitmq_detailed_queue_messages_ready{queue="teardown.dead-letters"}'
FAMILIES = "family=queue_coarse_metrics&family=queue_consumer_count"


@dataclass(frozen=True)
class Watched:
    """What a Prometheus knows of a run, and what the checker said of it.

    `at` is the moment to ask about, just after the run; `pages` are the scraped pages by job.
    """

    prometheus: Prometheus
    judgements: list[Judgement]
    pages: dict[str, str]
    at: float

    @property
    def cluster(self) -> str:
        """The broker's name, found as the dashboard's variable finds it."""
        (found,) = self.prometheus.query("rabbitmq_identity_info{job='rabbitmq'}", self.at)
        name: str = found["metric"]["rabbitmq_cluster"]
        return name


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program("prometheus")
    need_server()
    folder = tmp_path_factory.mktemp("watched")
    port = free_ports().amqp
    node = PrivateNode(
        config=["prometheus.tcp.ip = 127.0.0.1", f"prometheus.tcp.port = {port}"],
        plugins=["rabbitmq_prometheus"],
    )
    with RunFolder() as run, node, open_lab(LabOptions(node.url, vcpus=VCPUS), print) as lab:
        assert lab.stack is not None
        services = lab.stack.metrics_urls.values()
        broker = f"127.0.0.1:{port}"
        targets = {
            "teardown": addresses(*services),
            "rabbitmq": [broker],
            "rabbitmq-detailed": [broker],
        }
        with scraping(run, folder, targets) as prometheus:
            judgements = [
                each for _ in range(ROUNDS) for each in run_round(lab, prometheus, folder)
            ]
            # The broker counts a queue's messages every few seconds.
            wait_until("queues", lambda: prometheus.has_series(DEAD_LETTER_QUEUE))
            pages = {
                "teardown": "".join(read(url) for url in services),
                "rabbitmq": read(f"http://{broker}/metrics"),
                "rabbitmq-detailed": read(f"http://{broker}/metrics/detailed?{FAMILIES}"),
            }
            yield Watched(prometheus, judgements, pages, time.time())


def run_round(lab: Lab, prometheus: Prometheus, folder: Path) -> list[Judgement]:
    """Run every ordering once, and wait until Prometheus knows, from every target."""
    histories = folder / "histories"
    histories.mkdir(exist_ok=True)
    before = prometheus.value(ENDED) or 0.0
    done = [tear_down(lab, name, histories, vcpus=VCPUS)[0] for name in ORDERINGS]
    wait_until("a scrape", lambda: prometheus.value(ENDED) == before + len(ORDERINGS))
    now = time.time()
    wait_until("all scrapes", lambda: (prometheus.value("min(timestamp(up))") or 0.0) > now)
    return done


def read(url: str) -> str:
    with urlopen(url, timeout=30) as answer:  # noqa: S310 - our own URL
        text: str = answer.read().decode()
    return text

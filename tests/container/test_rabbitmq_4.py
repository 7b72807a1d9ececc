"""The whole catalogue on a RabbitMQ 4.x in a container: what 3.10 says, and the simulator.

TEARDOWN_RABBITMQ_IMAGE names another image than `rabbitmq:4-management`. Where no container engine
answers, these tests are skipped, and fail if TEARDOWN_REQUIRE_CONTAINERS is set.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.tools.managers import crew
from integration.tools.managers import essence as unchanging
from support.needs import need_engine, need_server
from support.randomness import seeded
from support.runs import WORKERS, broken, essence, tear_down

from teardown_lab.broker.address import knock
from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab, LabOptions, open_lab
from teardown_lab.own_broker.container import image_name
from teardown_lab.own_broker.private_node import PrivateNode
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol import limits
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario

pytestmark = pytest.mark.container

VCPUS = 4
RACY = [name for name in catalogue_names() if catalogue_entry(name).racy]
STEADY = [name for name in catalogue_names() if not catalogue_entry(name).racy]
AMQP = 5672


@pytest.fixture(scope="module")
def container_url() -> Iterator[str]:
    need_engine()
    with warnings.catch_warnings():  # the module warns of its own helpers
        warnings.simplefilter("ignore", DeprecationWarning)
        from testcontainers.community.rabbitmq import RabbitMqContainer

        container = RabbitMqContainer(image_name())
        container.ports = {AMQP: ("127.0.0.1", None)}  # type: ignore[dict-item]
        with container:
            yield f"amqp://guest:guest@127.0.0.1:{container.get_exposed_port(AMQP)}/%2F"


@pytest.fixture(scope="module")
def container_lab(container_url: str) -> Iterator[Lab]:
    options = LabOptions(broker=container_url, workers=WORKERS, vcpus=VCPUS)
    with open_lab(options, print) as lab:
        yield lab


@pytest.fixture(scope="module")
def installed_lab() -> Iterator[Lab]:
    """The installed series, whatever broker the other tests are told to use."""
    need_server()
    with PrivateNode() as node:
        options = LabOptions(broker=node.url, workers=WORKERS, vcpus=VCPUS)
        with open_lab(options, print) as lab:
            yield lab


def shown(name: str) -> Scenario:
    """Return the scenario that shows an entry's point, without the ticker's varying requests."""
    show = catalogue_entry(name).show.model_dump()
    return Scenario.model_validate(show | {"vcpus": VCPUS, "ticker": False})


@pytest.mark.parametrize("name", ["unload-in-destroy", "unload-in-destroy-wipe-last"])
def test_a_manager_that_dies_at_some_boundaries(
    container_url: str, tmp_path: Path, name: str
) -> None:
    """tests/integration/test_recovery.py tries them on 3.10."""
    with crew(container_url, tmp_path) as two:
        undisturbed = unchanging(two.tear_down(name))
        for boundary in seeded(f"boundaries 4.x {name}").sample(range(1, 90), 4):
            found = two.crash_at(boundary, name)
            assert found is not None, boundary
            judgement, where, took_s = found
            print(f"{where}: a successor was active after {took_s:.2f} s")
            assert unchanging(judgement) == undisturbed, where
            two.manager()


def test_the_history_names_the_broker_in_the_container(
    container_lab: Lab, container_url: str, workdir: Path
) -> None:
    judgement, _ = tear_down(container_lab, "unload-in-destroy", workdir, vcpus=1)

    assert judgement.broker == knock(container_url)
    assert judgement.broker.startswith("RabbitMQ ")


@pytest.mark.parametrize("name", STEADY)
def test_it_says_what_the_simulated_broker_says(
    container_lab: Lab, simulated_lab: Lab, workdir: Path, name: str
) -> None:
    real, _ = tear_down(container_lab, name, workdir, shown(name))
    simulated, _ = tear_down(simulated_lab, name, workdir, shown(name))

    assert essence(real) == essence(simulated)


def said(judgement: Judgement) -> dict[str, object]:
    """Return what a broker's version may not change; which hazard a ticker meets is chance."""
    return {
        "verdict": str(judgement.verdict),
        "violations": broken(judgement),
        "dead_letters": Counter(letter.reason for letter in judgement.dead_letters),
        "counts": judgement.counts,
        "notes": judgement.notes,
    }


@pytest.mark.rabbitmq
@pytest.mark.parametrize("name", STEADY)
def test_it_says_what_the_installed_series_says(
    container_lab: Lab, installed_lab: Lab, workdir: Path, name: str
) -> None:
    scenario = catalogue_entry(name).show

    container, _ = tear_down(container_lab, name, workdir, scenario)
    installed, _ = tear_down(installed_lab, name, workdir, scenario)

    assert said(container) == said(installed)
    assert container.broker != installed.broker


@pytest.mark.parametrize("name", RACY)
def test_a_racy_ordering_ends_in_one_of_its_verdicts(
    container_lab: Lab, workdir: Path, name: str
) -> None:
    entry = catalogue_entry(name)
    expected = entry.expected(shown(name))
    assert expected is not None

    judgement, _ = tear_down(container_lab, name, workdir, shown(name))

    assert str(judgement.verdict) in expected.run


def test_the_loop_of_2007_ends_at_the_delivery_limit_by_rejects(
    container_lab: Lab, workdir: Path
) -> None:
    """RabbitMQ 4.3 counts `basic.reject` towards the limit, and `basic.nack` no more."""
    judgement, records = tear_down(container_lab, "zap-all-per-vcpu", workdir, vcpus=2)

    requeues = Counter(
        record.message_id
        for record in records
        if record.event == Event.MESSAGE_REJECTED and record.details["requeue"]
    )
    assert broken(judgement) == {"stuck": 1}
    assert [letter.reason for letter in judgement.dead_letters] == ["delivery_limit"]
    assert list(requeues.values()) == [limits.DELIVERY_LIMIT + 1]

"""The whole stack in containers: up, a teardown in it, what Prometheus saw of it, down.

The tests share one stack and run in their order: the last one takes it down.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from container.compose import Compose, docker, inspected
from integration.tools.cli import Place, running, teardown
from support.needs import CONTAINERS, need, need_engine

from teardown_lab.broker.address import knock
from teardown_lab.broker.errors import BrokerUnavailable

pytestmark = pytest.mark.container

WORKERS = 8
WIPE_LAST = "unload-in-destroy-wipe-last"
UNLOAD = "unload-in-destroy"
USE_AFTER_FREES = 6
"""n(n-1)/2, with 4 vCPUs."""
SCRAPED_SECONDS = 60
MANY_VCPUS = 96
"""A teardown that takes seconds."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    need_engine()
    need(docker("compose", "version").returncode == 0, "`docker compose`", CONTAINERS)
    made = Compose.prepared(tmp_path_factory.mktemp("compose"))
    try:
        made.up("--build", "--scale", f"vcpu-worker={WORKERS}")
        yield made
    finally:
        made.down()


@pytest.fixture
def place(stack: Compose, tmp_path: Path) -> Place:
    """A folder that looks like the clone from which the stack was brought up."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "secrets").symlink_to(stack.secrets)
    return Place(tmp_path)


def attached(place: Place, ordering: str, *more: str) -> dict[str, Any]:
    """Run a teardown in the stack, as the page on deployment says, and return its JSON."""
    done = teardown(place, "run", ordering, "--attach", "--json", *more, seconds=320)
    assert done.returncode in (0, 1), done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def essence(run: dict[str, Any]) -> dict[str, Any]:
    """Return what does not depend on ids and clocks."""
    letters = [(each["reason"], each["vcpu"], each["invariant"]) for each in run["dead_letters"]]
    return {
        "verdict": run["verdict"],
        "violations": Counter((each["invariant"], each["vcpu"]) for each in run["violations"]),
        "hazards": Counter((each["hazard"], each["vcpu"]) for each in run["hazards"]),
        "dead_letters": Counter(letters),
        "counts": run["counts"],
    }


def asked(stack: Compose, query: str) -> list[dict[str, Any]]:
    """Return what Prometheus answers to an instant query."""
    address = f"http://127.0.0.1:{stack.ports['PROMETHEUS']}/api/v1/query?"
    with urlopen(address + urlencode({"query": query}), timeout=30) as page:  # noqa: S310 - ours
        answer = json.load(page)
    assert answer["status"] == "success", answer
    return list(answer["data"]["result"])


def dead_letters(stack: Compose) -> Counter[tuple[str, str]]:
    """Return how many dead letters Prometheus knows of, by reason and invariant."""
    found = asked(stack, "sum by (reason, invariant) (teardown_dead_letters_total)")
    counts = {
        (each["metric"]["reason"], each["metric"]["invariant"]): int(float(each["value"][1]))
        for each in found
    }
    return Counter({labels: count for labels, count in counts.items() if count})


def dead_letters_by_now(stack: Compose) -> Counter[tuple[str, str]]:
    """Wait until Prometheus has scraped everybody once more, and return what it knows then."""
    now = time.time()
    deadline = time.monotonic() + SCRAPED_SECONDS
    while time.monotonic() < deadline:
        oldest = asked(stack, "min(timestamp(teardown_dead_letters_total))")
        if oldest and float(oldest[0]["value"][1]) > now:
            break
        time.sleep(0.5)
    return dead_letters(stack)


def consumers(stack: Compose) -> dict[str, int]:
    """Return how many consumers each queue has."""
    listed = stack.must(
        *("exec", "--no-TTY", "rabbitmq", "rabbitmqctl", "--silent", "list_consumers"),
        *("queue_name", "--formatter", "json"),
    )
    return Counter(each["queue_name"] for each in json.loads(listed))


def test_two_managers_and_eight_workers_with_names_of_their_own_consume(stack: Compose) -> None:
    found = consumers(stack)

    workers = [name for name in found if name.startswith("worker.")]
    assert found["manager.commands"] == len(stack.containers("vm-manager")) == 2
    assert found["vcpu.placement"] == len(stack.containers("vcpu-worker")) == WORKERS
    assert len(workers) == 2 * WORKERS
    assert {found[name] for name in workers} == {1}


@pytest.mark.rabbitmq
@pytest.mark.parametrize("ordering", [WIPE_LAST, UNLOAD])
def test_a_teardown_in_the_stack_is_that_of_a_private_node(
    stack: Compose, place: Place, amqp_url: str, ordering: str
) -> None:
    private = teardown(place, "run", ordering, "--broker", amqp_url, "--json")

    run = attached(place, ordering)

    assert essence(run) == essence(json.loads(private.stdout))
    assert run["broker"].startswith("RabbitMQ 4.")
    assert place.run_ids() == []


def test_prometheus_has_the_dead_letters_by_reason_and_invariant(
    stack: Compose, place: Place
) -> None:
    before = dead_letters_by_now(stack)

    attached(place, WIPE_LAST)

    wanted = before + Counter({("rejected", "use-after-free"): USE_AFTER_FREES})
    deadline = time.monotonic() + SCRAPED_SECONDS
    while (found := dead_letters(stack)) != wanted and time.monotonic() < deadline:
        time.sleep(1)
    assert found == wanted


def test_prometheus_reaches_every_service_and_the_broker(stack: Compose) -> None:
    deadline = time.monotonic() + SCRAPED_SECONDS
    jobs: Counter[str] = Counter()
    while sum(jobs.values()) < WORKERS + 4 and time.monotonic() < deadline:
        jobs = Counter(each["metric"]["job"] for each in asked(stack, "up == 1"))
        time.sleep(0.5)

    assert asked(stack, "up == 0") == []
    assert sum(count for job, count in jobs.items() if "rabbitmq" not in job) >= WORKERS + 2
    assert jobs["rabbitmq"] == 1
    assert asked(stack, "rabbitmq_identity_info") != []


def test_no_service_is_root_and_none_can_write_to_its_file_system(stack: Compose) -> None:
    assert int(inspected(stack.image)["Config"]["User"].partition(":")[0]) > 0
    for service in ("vm-manager", "vcpu-worker", "rabbitmq", "prometheus"):
        container = inspected(stack.containers(service)[0])
        user = stack.must("exec", "--no-TTY", service, "id", "-u")
        touched = stack.run("exec", "--no-TTY", service, "touch", "/usr/written")

        assert int(user) > 0, service
        assert "Read-only file system" in touched.stderr, service
        assert container["HostConfig"]["ReadonlyRootfs"], service
        assert container["HostConfig"]["CapDrop"] == ["ALL"], service


def test_the_image_runs_by_itself_without_a_file_system_to_write_to(stack: Compose) -> None:
    refused = docker("run", "--rm", "--read-only", "--env", "LOG_LEVEL=loud", stack.image)
    worker = ("run", "--rm", "--read-only", "--env", "AMQP_URL=amqp:/x", stack.image)

    assert (refused.returncode, "LOG_LEVEL: 'loud'" in refused.stderr) == (2, True)
    assert docker(*worker, "vcpu-worker").returncode == 2


def test_nothing_listens_outside_of_loopback(stack: Compose) -> None:
    bound = [
        address["HostIp"]
        for container in stack.containers()
        for addresses in inspected(container)["NetworkSettings"]["Ports"].values()
        for address in addresses or ()
    ]

    assert len(bound) == len(stack.ports)
    assert set(bound) == {"127.0.0.1"}


def test_guest_is_not_let_in(stack: Compose) -> None:
    with pytest.raises(BrokerUnavailable, match="refuses the login"):
        knock(f"amqp://guest:guest@127.0.0.1:{stack.ports['AMQP']}/%2F")


def test_the_image_is_built_once(stack: Compose) -> None:
    """Two builds of one name leave an image without one."""
    services = json.loads(stack.must("config", "--format", "json"))["services"]

    assert [name for name, service in services.items() if "build" in service] == ["vm-manager"]
    assert services["vcpu-worker"]["image"] == services["vm-manager"]["image"] == stack.image


def test_grafana_and_tracing_are_there_only_when_asked_for(stack: Compose) -> None:
    usual = set(stack.must("config", "--services").split())
    more = stack.must("--profile", "grafana", "--profile", "tracing", "config", "--services")

    assert usual == {"setup", "rabbitmq", "vm-manager", "vcpu-worker", "prometheus"}
    assert set(more.split()) - usual == {"grafana", "tracing"}


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_stand_by_goes_on_with_the_teardown_of_the_active_manager(
    stack: Compose, place: Place, how: str
) -> None:
    # A busy machine takes a minute for that.
    vcpus = ("--vcpus", str(MANY_VCPUS), "--timeout", "300")
    undisturbed = attached(place, UNLOAD, *vcpus)
    first = stack.active_manager()

    with running(place, "run", UNLOAD, "--attach", *vcpus, "--history", "disturbed.jsonl") as run:
        deadline = time.monotonic() + SCRAPED_SECONDS
        while not stack.metric(first, "teardown_teardowns_running"):
            assert time.monotonic() < deadline, "no teardown has begun"
        stop(first) if how == "stop" else docker("kill", first)
        code = run.process.wait(timeout=300)

    told = json.loads(teardown(place, "check", "disturbed.jsonl", "--json").stdout)
    assert code == 0, run.text()
    assert essence(told) == essence(undisturbed)
    assert (told["verdict"], told["takeovers"]) == ("safe", 1)
    assert stack.active_manager() != first
    docker("start", first)
    stack.up("--no-recreate", "--scale", f"vcpu-worker={WORKERS}")


def stop(container: str) -> None:
    """Stop a container as the engine does, by SIGTERM; it ends by itself, in time."""
    docker("stop", container)
    ended = inspected(container)["State"]
    assert (ended["ExitCode"], ended["OOMKilled"]) == (0, False)


def test_all_services_stop_at_once_and_start_again(stack: Compose, place: Place) -> None:
    stack.up("--no-recreate", "--scale", f"vcpu-worker={WORKERS}")
    stack.must("stop", "vm-manager", "vcpu-worker")

    stopped = stack.containers("vm-manager", stopped=True)
    stopped += stack.containers("vcpu-worker", stopped=True)
    assert len(stopped) == WORKERS + 2
    assert {inspected(name)["State"]["ExitCode"] for name in stopped} == {0}

    stack.up("--no-recreate", "--scale", f"vcpu-worker={WORKERS}")
    assert attached(place, UNLOAD)["verdict"] == "safe"


def test_no_password_is_in_a_log_or_in_a_container_s_settings(
    stack: Compose, tmp_path: Path
) -> None:
    stack.copy_secrets(tmp_path)
    passwords = [file.read_text().strip() for file in tmp_path.rglob("*.password")]
    logs = stack.must("logs", "--no-color")
    settings = "".join(json.dumps(inspected(name)) for name in stack.containers(stopped=True))

    assert "service.ready" in logs
    assert len(set(passwords)) == 5
    assert [password for password in passwords if password in logs + settings] == []


def test_each_service_has_its_own_secrets_and_no_other_s(stack: Compose) -> None:
    found = {
        service: stack.must("exec", "--no-TTY", service, "ls", "/run/secrets").split()
        for service in ("rabbitmq", "vm-manager", "vcpu-worker")
    }

    assert found == {
        "rabbitmq": ["definitions.json"],
        "vm-manager": ["manager.password", "monitor.password"],
        "vcpu-worker": ["worker.password"],
    }
    assert not stack.run("exec", "--no-TTY", "prometheus", "ls", "/run/secrets").stdout
    assert {file.name for file in stack.secrets.iterdir()} == {
        "client.url",
        "client.password",
        "operator.password",
    }


def test_after_down_nothing_is_left(stack: Compose) -> None:
    assert set(stack.leftovers()) == {"container", "volume", "network"}

    stack.must("down", "--volumes")

    assert stack.leftovers() == {}

"""Where a container's port is reached: testcontainers' own rule, case by case."""

import subprocess
import sys
from pathlib import Path

import pytest

from teardown_lab.own_broker.reach import LOCAL, Reach, reach_of

GATEWAY = "172.18.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what a port of another host is published on


@pytest.mark.parametrize(
    ("environment", "beside_engine", "expected"),
    [
        ({}, True, Reach(LOCAL, LOCAL)),
        ({"DOCKER_HOST": "unix:///var/run/docker.sock"}, True, Reach(LOCAL, LOCAL)),
        ({"DOCKER_HOST": "unix:///var/run/docker.sock"}, False, Reach(GATEWAY, GATEWAY)),
        ({}, False, Reach(GATEWAY, GATEWAY)),
        ({"DOCKER_HOST": "tcp://build-7:2375"}, True, Reach("build-7", EVERYWHERE)),
        ({"DOCKER_HOST": "tcp://docker:2376"}, False, Reach("docker", EVERYWHERE)),
        ({"DOCKER_HOST": "https://10.1.2.3:2376"}, True, Reach("10.1.2.3", EVERYWHERE)),
        ({"DOCKER_HOST": "ssh://me@build-7"}, True, Reach("build-7", EVERYWHERE)),
        ({"DOCKER_HOST": "tcp://localhost:2375"}, True, Reach(LOCAL, LOCAL)),
        ({"DOCKER_HOST": "tcp://127.0.0.1:2375"}, False, Reach(LOCAL, LOCAL)),
        ({"TC_HOST": "ci-host"}, False, Reach("ci-host", EVERYWHERE)),
        (
            {"TESTCONTAINERS_HOST_OVERRIDE": "host.docker.internal"},
            False,
            Reach("host.docker.internal", EVERYWHERE),
        ),
        (
            {"TESTCONTAINERS_HOST_OVERRIDE": LOCAL, "DOCKER_HOST": "tcp://x:1"},
            False,
            Reach(LOCAL, LOCAL),
        ),
    ],
)
def test_a_port_is_reached_where_testcontainers_would_look_for_it(
    environment: dict[str, str], beside_engine: bool, expected: Reach
) -> None:
    assert reach_of(environment, beside_engine=beside_engine, gateway=GATEWAY) == expected


def test_a_container_without_a_gateway_is_left_with_its_own_host() -> None:
    assert reach_of({}, beside_engine=False, gateway="") == Reach(LOCAL, LOCAL)


def test_a_broker_that_others_can_reach_has_a_password_of_its_own() -> None:
    assert Reach(LOCAL, LOCAL).password() == "guest"
    passwords = {Reach("build-7", EVERYWHERE).password() for _ in range(8)}
    assert len(passwords) == 8
    assert "guest" not in passwords


@pytest.mark.slow
def test_every_package_tells_type_checkers_that_it_is_typed(tmp_path: Path) -> None:
    import service_runtime
    import teardown_lab
    import vcpu_worker
    import vm_manager
    import vm_protocol

    for package in (service_runtime, teardown_lab, vcpu_worker, vm_manager, vm_protocol):
        assert (Path(package.__path__[0]) / "py.typed").is_file(), package.__name__
    test = tmp_path / "test_ours.py"
    test.write_text(
        "from teardown_lab.testing import Outcome, RunOrdering\n\n\n"
        "def test_it(run_ordering: RunOrdering) -> None:\n"
        "    outcome: Outcome = run_ordering('unload-in-destroy', vcpus=4)\n"
        "    reveal_type(outcome.broken)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [*command, str(test)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert 'Revealed type is "dict[str, int]"' in done.stdout.replace("builtins.", "")

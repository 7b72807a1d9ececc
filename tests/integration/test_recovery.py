"""Managers die, are paused and are replaced; verdict and counts are those of an undisturbed run."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from integration.tools.amqp import channel_to
from integration.tools.log import Log
from integration.tools.managers import Crew, Once, crew, essence, wait_until
from integration.tools.service import service
from support.randomness import seeded

from teardown_lab.own_broker.private_node import PrivateNode
from vm_protocol.topology import PROGRESS, PROGRESS_QUEUE

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(1200)]

SAFE, VIOLATED = "unload-in-destroy", "unload-in-destroy-wipe-last"
KILLED_S = 2.0
"""A successor is active so soon after a kill."""
SILENT_S = 15.0
"""... and so soon after its predecessor fell silent."""
BOUNDARIES_MAX = 400
BUSY_S = 3.0
"""How much later a busy machine may notice something."""


@pytest.fixture
def two(fresh_node: PrivateNode, tmp_path: Path) -> Iterator[Crew]:
    with crew(fresh_node.url, tmp_path) as made:
        yield made


def test_a_manager_that_dies_at_some_boundaries(two: Crew) -> None:
    _try_boundaries(two, SAFE, seeded("boundaries").sample(range(1, 110), 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", [SAFE, VIOLATED])
def test_a_manager_that_dies_at_many_boundaries(two: Crew, name: str) -> None:
    _try_boundaries(two, name, seeded(f"boundaries {name}").sample(range(1, 110), 12))


@pytest.mark.long
@pytest.mark.parametrize("name", [SAFE, VIOLATED])
def test_a_manager_that_dies_at_each_boundary(two: Crew, name: str) -> None:
    """Before and after each entry of the log, each batch of records and each effect."""
    assert _try_boundaries(two, name, list(range(1, BOUNDARIES_MAX))) > 100


def _try_boundaries(two: Crew, name: str, boundaries: list[int]) -> int:
    """Let a manager die at each of these; return how many there were, before the teardown ended."""
    undisturbed = essence(two.tear_down(name))
    slowest_s = 0.0
    for count, boundary in enumerate(boundaries):
        found = two.crash_at(boundary, name)
        if found is None:
            print(f"{count} boundaries; a successor was active after {slowest_s:.2f} s at most")
            return count
        judgement, where, took_s = found
        assert essence(judgement) == undisturbed, where
        assert len(judgement.takeovers) <= 1, where  # 0: its VM was gone when the manager died
        slowest_s = max(slowest_s, took_s)
        two.manager()
    print(f"a successor was active after {slowest_s:.2f} s at most")
    assert slowest_s < KILLED_S + BUSY_S
    return len(boundaries)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [6, pytest.param(200, marks=pytest.mark.long)])
def test_a_manager_that_dies_at_any_time(two: Crew, runs: int) -> None:
    random = seeded("any time")
    undisturbed = {name: essence(two.tear_down(name, 8)) for name in (SAFE, VIOLATED)}
    for _ in range(runs):
        name, moment = random.choice((SAFE, VIOLATED)), random.randrange(1, 250)
        kill = Once(two.living[0].kill, moment)

        judgement = two.tear_down(name, 8, kill)

        kill.join()
        assert essence(judgement) == undisturbed[name], moment
        two.manager()


@pytest.mark.slow
def test_one_manager_that_is_started_again_goes_on_where_it_was(
    fresh_node: PrivateNode, tmp_path: Path
) -> None:
    with crew(fresh_node.url, tmp_path, managers=1) as one:

        def replace() -> None:
            one.managers[0].kill()
            one.manager()

        kill = Once(replace, 30)
        judgement = one.tear_down(SAFE, 8, kill)
        kill.join()

    assert (str(judgement.verdict), judgement.notes, len(judgement.takeovers)) == ("safe", (), 1)


@pytest.mark.slow
def test_three_managers_die_in_one_teardown(two: Crew) -> None:
    two.manager()
    two.manager()
    undisturbed = essence(two.tear_down(VIOLATED, 16))

    def kill_three() -> None:
        for _ in range(3):
            victim = two.living[0]
            wait_until(lambda victim=victim: bool(victim.elected_s), "it is not elected")
            victim.kill()

    kill = Once(kill_three, 20)
    judgement = two.tear_down(VIOLATED, 16, kill)
    kill.join()

    assert essence(judgement) == undisturbed
    assert 1 <= len(judgement.takeovers) <= 3  # one that wrote nothing did nothing


@pytest.mark.slow
def test_a_manager_that_is_paused_is_replaced_and_stands_by_when_it_comes_back(two: Crew) -> None:
    undisturbed = essence(two.tear_down(VIOLATED, 8))
    paused, heir = two.living
    paused_s: list[float] = []

    def stop() -> None:
        paused.pause()
        paused_s.append(time.time())

    pause = Once(stop, 30)
    judgement = two.tear_down(VIOLATED, 8, pause)

    pause.join()
    assert essence(judgement) == undisturbed
    assert len(judgement.takeovers) == 1
    (elected_s,) = heir.elected_s
    paused.go_on()
    paused.log.wait(event="broker.connection_lost", actor="manager")
    assert essence(two.tear_down(SAFE, 8))[0] == "safe"
    assert len(paused.elected_s) == 1
    took_s = elected_s - paused_s[0]
    print(f"a paused manager was replaced after {took_s:.1f} s")
    assert took_s < SILENT_S + BUSY_S


@pytest.mark.slow
def test_the_broker_is_restarted_while_a_successor_takes_over(
    fresh_node: PrivateNode, two: Crew
) -> None:
    undisturbed = essence(two.tear_down(SAFE, 8))

    def both() -> None:
        two.living[0].kill()
        fresh_node.restart()

    kill = Once(both, 40)
    judgement = two.tear_down(SAFE, 8, kill)
    kill.join()

    assert essence(judgement) == undisturbed


@pytest.mark.slow
def test_a_manager_gives_way_to_one_that_the_log_names(two: Crew) -> None:
    """Two are active where a partition has hidden one from the broker's other nodes."""
    active = two.living[0]
    with channel_to(two.url) as channel:
        body = b'{"type":"Elected","candidate":"somebody-else","alive_from":0}'
        channel.basic_publish(PROGRESS.name, PROGRESS_QUEUE.name, body)

    active.log.wait(event="broker.connection_lost", actor="manager")

    assert essence(two.tear_down(SAFE))[0] == "safe"


@pytest.mark.slow
def test_a_log_that_nobody_can_read_ends_the_manager_with_a_way_out(lone_node: PrivateNode) -> None:
    log = Log()
    with service("vm_manager", lone_node.url, log) as process:
        log.wait(event="manager.elected")
        process.terminate()
        process.wait(10)
    try:
        with channel_to(lone_node.url) as channel:
            channel.basic_publish(PROGRESS.name, PROGRESS_QUEUE.name, b'{"type":"Poem"}')
        with service("vm_manager", lone_node.url, log) as process:
            assert process.wait(30) == 4
        (told,) = [line for line in log.lines if line["event"] == "manager.log_broken"]
        assert "delete the queue teardown.progress" in told["why"]
    finally:
        with channel_to(lone_node.url) as channel:
            channel.queue_delete(PROGRESS_QUEUE.name)


@pytest.mark.slow
def test_fifty_teardowns_are_in_flight_when_the_manager_dies(two: Crew) -> None:
    undisturbed = essence(two.tear_down(SAFE, 2))
    kill = Once(two.living[0].kill, 400)

    with ThreadPoolExecutor(50) as pool:
        running = [pool.submit(two.tear_down_apart, SAFE, 2, kill) for _ in range(50)]
        judgements = [each.result() for each in running]

    kill.join()
    assert [essence(each) for each in judgements] == [undisturbed] * 50
    taken_over = sum(bool(each.takeovers) for each in judgements)
    print(f"{taken_over} of 50 VMs lived at the take-over")
    assert taken_over > 1


@pytest.mark.slow
def test_a_manager_and_a_worker_die_together(two: Crew) -> None:
    """The successor waits for the worker's lease; the teardown ends, and the loss is named."""

    def both() -> None:
        two.living[0].kill()
        two.workers[0].kill()

    kill = Once(both, 30)
    judgement = two.tear_down(SAFE, 8, kill, timeout_s=120)
    kill.join()

    assert str(judgement.verdict) != "violated"
    assert [each.worker for each in judgement.lost_hosts] == ["w-1"]
    assert len(judgement.takeovers) == 1


@pytest.mark.slow
def test_a_worker_that_dies_at_some_boundaries(two: Crew) -> None:
    _try_worker_boundaries(two, seeded("workers").sample(range(1, 40), 2))


@pytest.mark.long
def test_a_worker_that_dies_at_each_boundary(two: Crew) -> None:
    assert _try_worker_boundaries(two, list(range(1, BOUNDARIES_MAX))) > 20


def _try_worker_boundaries(two: Crew, boundaries: list[int]) -> int:
    """Let a worker die at each of these: the loss is named, and pins and roots are right.

    The checker derives from the history what the manager had to release, and compares.
    """
    for count, boundary in enumerate(boundaries):
        two.worker_crash_file.write_text(str(boundary))
        judgement = two.tear_down(SAFE, 4, timeout_s=120)
        if not two.worker_crash_file.with_name("crash-worker.at").exists():
            two.worker_crash_file.unlink(missing_ok=True)
            print(f"{count} boundaries")
            return count
        two.worker_crash_file.with_name("crash-worker.at").unlink()
        (lost,) = [each for each in two.workers if each.poll() is not None]
        two.workers.remove(lost)
        assert judgement.violations == (), boundary
        assert str(judgement.verdict) == "safe" or judgement.notes, boundary
        # None: its vCPUs were freed, and nobody waited for it any more.
        assert len(judgement.lost_hosts) <= 1, boundary
        two.worker(f"w-{boundary}-again")
    return len(boundaries)

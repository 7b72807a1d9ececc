"""A run gives a silent broker up, and says so if the broker was blocking it."""

import asyncio

from teardown_lab.experiment.watch import give_up

PATIENCE_S = 0.05
TURN_S = 0.005


def reason(blocked: list[bool]) -> str:
    """Return why a run was given up whose broker blocked it as told, look by look."""
    looks = iter(blocked)
    lost = asyncio.run(give_up(lambda: next(looks, blocked[-1]), PATIENCE_S, TURN_S))
    return str(lost)


def test_a_silent_broker_is_given_up() -> None:
    assert reason([False]).startswith("the broker does not answer: gave up after")
    assert "alarm" not in reason([False])


def test_an_alarm_that_holds_is_named() -> None:
    assert reason([True]).startswith("the broker blocks publishers (a memory or disk alarm")


def test_an_alarm_that_is_over_is_named_too() -> None:
    said = reason([True, True, False])

    assert said.startswith("the broker does not answer")
    assert "it blocked publishers for" in said


def test_time_in_which_the_broker_blocks_does_not_use_up_the_patience() -> None:
    looks: list[bool] = []

    def is_blocked() -> bool:
        looks.append(len(looks) < 6)
        return looks[-1]

    asyncio.run(give_up(is_blocked, PATIENCE_S, TURN_S))

    assert looks[:6] == [True] * 6
    assert looks[6:].count(False) >= PATIENCE_S / TURN_S, "it went on waiting after the alarm"

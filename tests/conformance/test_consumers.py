"""Who gets what: turns of competing consumers, and the single active one."""

import pytest

from conformance.adapter import Gone, Session, bodies

KINDS = ["classic", "quorum"]


@pytest.mark.parametrize("kind", KINDS)
def test_consumers_take_turns(session: Session, kind: str) -> None:
    session.queue("queue", kind)
    for client in ("one", "two", "three"):
        session.broker.consume(client, "queue", prefetch=10)

    session.send("queue", *"abcdefg")

    assert bodies(session.take("one", 3)) == ["a", "d", "g"]
    assert bodies(session.take("two", 2)) == ["b", "e"]
    assert bodies(session.take("three", 2)) == ["c", "f"]


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_no_room_is_passed_over(session: Session, kind: str) -> None:
    session.queue("queue", kind)
    session.broker.consume("one", "queue", prefetch=1)
    session.broker.consume("two", "queue", prefetch=10)

    session.send("queue", *"abcd")

    assert bodies(session.take("one", 1)) == ["a"]
    assert bodies(session.take("two", 3)) == ["b", "c", "d"]


def test_only_the_first_consumer_of_a_single_active_queue_is_served(session: Session) -> None:
    session.queue("queue", "quorum", single_active_consumer=True)
    for client in ("one", "two"):
        session.broker.consume(client, "queue", prefetch=2)

    session.send("queue", "a", "b", "c")

    assert bodies(session.take("one", 2)) == ["a", "b"]
    session.take("two", 0)
    session.ready("queue", 1)


def test_the_next_consumer_takes_over_when_the_active_one_is_lost(session: Session) -> None:
    session.queue("queue", "quorum", single_active_consumer=True, delivery_limit=20)
    for client in ("one", "two", "three"):
        session.broker.consume(client, "queue", prefetch=2)
    session.send("queue", "a", "b", "c")
    session.take("one", 2)

    session.lose("one")

    found = session.take("two", 2)
    assert bodies(found) == ["a", "b"]
    assert [each.redelivered for each in found] == [True, True]
    session.take("three", 0)


def test_a_connection_that_is_closed_in_order_cancels_before_it_gives_back(
    session: Session,
) -> None:
    """So the successor first gets what is ready, then what the old one held."""
    session.queue("queue", "quorum", single_active_consumer=True, delivery_limit=20)
    for client in ("one", "two"):
        session.broker.consume(client, "queue", prefetch=2)
    session.send("queue", "a", "b", "c")
    session.take("one", 2)

    session.close("one")

    assert bodies(session.take("two", 2)) == ["c", "a"]


def test_the_next_consumer_takes_over_while_a_cancelled_one_still_holds_messages(
    session: Session,
) -> None:
    """Two owners at once, unless the services fence them."""
    session.queue("queue", "quorum", single_active_consumer=True, delivery_limit=20)
    for client in ("one", "two"):
        session.broker.consume(client, "queue", prefetch=1)
    session.send("queue", "a", "b", "c")
    (a,) = session.take("one", 1)

    session.broker.cancel("one", "queue")

    (b,) = session.take("two", 1)
    assert b.body == "b"
    session.broker.reject(a, requeue=True)
    session.take("two", 0)
    session.broker.ack(b)
    assert bodies(session.take("two", 1)) == ["a"]


def test_of_waiting_consumers_the_one_with_the_largest_prefetch_is_next_since_4_0(
    session: Session,
) -> None:
    session.queue("queue", "quorum", single_active_consumer=True)
    for client, prefetch in (("one", 5), ("two", 1), ("three", 2), ("four", 2)):
        session.broker.consume(client, "queue", prefetch=prefetch)

    session.lose("one")
    session.send("queue", "a")

    next_one = "three" if session.version.successor_has_most_room else "two"
    assert bodies(session.take(next_one, 1)) == ["a"]


def test_a_waiting_consumer_that_leaves_changes_nothing(session: Session) -> None:
    session.queue("queue", "quorum", single_active_consumer=True)
    for client in ("one", "two", "three"):
        session.broker.consume(client, "queue", prefetch=5)
    session.send("queue", "a")
    session.take("one", 1)

    session.lose("two")
    session.send("queue", "b")
    session.take("one", 1)
    session.lose("one")

    assert bodies(session.take("three", 2)) == ["a", "b"]


def test_a_consumer_that_comes_back_waits_at_the_end(session: Session) -> None:
    session.queue("queue", "quorum", single_active_consumer=True)
    for client in ("one", "two"):
        session.broker.consume(client, "queue", prefetch=5)
    session.broker.cancel("one", "queue")
    session.broker.consume("one", "queue", prefetch=5)

    session.send("queue", "a")

    session.take("two", 1)
    session.take("one", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_all_consumers_of_a_deleted_queue_are_told(session: Session, kind: str) -> None:
    session.queue("queue", kind)
    for client in ("one", "two"):
        session.broker.consume(client, "queue", prefetch=5)

    session.broker.delete("queue")

    assert session.take_gone("one") == Gone("queue")
    assert session.take_gone("two") == Gone("queue")

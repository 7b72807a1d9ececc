"""Deliveries that come back: their place, the redelivered flag, lost connections."""

import pytest

from conformance.adapter import Delivery, Refused, Session, bodies

KINDS = ["classic", "quorum"]


def held(session: Session, kind: str, count: int, prefetch: int = 10) -> list[Delivery]:
    """Declare a queue, fill it with a, b, c ..., and let `worker` hold the first ones."""
    limit = {"delivery_limit": 20} if kind == "quorum" else {}
    session.queue("queue", kind, **limit)
    session.send("queue", *"abcdef"[:count])
    session.broker.consume("worker", "queue", prefetch=prefetch)
    return session.take("worker", min(count, prefetch))


def returned(session: Session, deliveries: list[Delivery]) -> None:
    for delivery in deliveries:
        session.broker.reject(delivery, requeue=True)


@pytest.mark.parametrize("kind", KINDS)
def test_prefetch_bounds_what_a_consumer_holds(session: Session, kind: str) -> None:
    first, _ = held(session, kind, count=5, prefetch=2)
    session.ready("queue", 3)

    session.broker.ack(first)

    assert bodies(session.take("worker", 1)) == ["c"]
    session.ready("queue", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_acknowledged_message_is_gone(session: Session, kind: str) -> None:
    for delivery in held(session, kind, count=2):
        assert not delivery.redelivered
        session.broker.ack(delivery)

    session.lose("worker")
    session.ready("queue", 0)


def test_a_classic_queue_puts_returned_messages_back_to_their_old_places(session: Session) -> None:
    a, b, c = held(session, "classic", count=6, prefetch=3)
    session.broker.cancel("worker", "queue")

    returned(session, [c, a])
    session.ready("queue", 5)
    returned(session, [b])

    session.ready("queue", 6)
    found = session.drain("queue", 6)
    assert bodies(found) == ["a", "b", "c", "d", "e", "f"]
    assert [each.redelivered for each in found] == [True] * 3 + [False] * 3


def test_a_quorum_queue_serves_returned_messages_first_in_the_order_of_their_return(
    session: Session,
) -> None:
    a, b, c = held(session, "quorum", count=6, prefetch=3)
    session.broker.cancel("worker", "queue")

    returned(session, [c, a])
    session.ready("queue", 5)
    returned(session, [b])

    session.ready("queue", 6)
    found = session.drain("queue", 6)
    assert bodies(found) == ["c", "a", "b", "d", "e", "f"]
    assert [each.redelivered for each in found] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_lone_consumer_gets_what_it_returned_at_once(session: Session, kind: str) -> None:
    (a,) = held(session, kind, count=2, prefetch=1)

    returned(session, [a])

    (again,) = session.take("worker", 1)
    assert (again.body, again.redelivered) == ("a", True)


def test_without_any_limit_a_quorum_queue_puts_what_is_returned_to_its_end(
    session: Session,
) -> None:
    """With the default limit of 4.x it does not."""
    session.queue("queue", "quorum")
    session.send("queue", "a", "b")
    session.broker.consume("worker", "queue", prefetch=1)
    (a,) = session.take("worker", 1)

    returned(session, [a])

    (again,) = session.take("worker", 1)
    is_last = session.version.delivery_limit_default is None
    assert again.body == ("b" if is_last else "a")
    session.lose("worker")
    found = session.drain("queue", 2)
    assert bodies(found) == (["b", "a"] if is_last else ["a", "b"])
    assert [each.delivery_count for each in found] == ([1, 1] if is_last else [2, None])


def test_in_a_classic_queue_a_consumer_that_was_not_met_full_keeps_its_turn(
    session: Session,
) -> None:
    """It was full, but no message looked for a consumer meanwhile."""
    a, _ = held(session, "classic", count=2, prefetch=2)
    session.broker.consume("other", "queue", prefetch=1)

    returned(session, [a])

    (again,) = session.take("worker", 1)
    assert (again.body, again.redelivered) == ("a", True)
    session.take("other", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_consumer_that_was_full_is_served_after_the_others(session: Session, kind: str) -> None:
    a, _ = held(session, kind, count=3, prefetch=2)
    session.broker.consume("other", "queue", prefetch=2)
    assert bodies(session.take("other", 1)) == ["c"]

    returned(session, [a])

    (again,) = session.take("other", 1)
    assert (again.body, again.redelivered) == ("a", True)
    session.take("worker", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_connection_gives_back_all_that_was_unsettled_in_order(
    session: Session, kind: str
) -> None:
    _, b, _ = held(session, kind, count=5, prefetch=3)
    session.broker.ack(b)
    session.take("worker", 1)

    session.lose("worker")

    found = session.drain("queue", 4)
    assert bodies(found) == ["a", "c", "d", "e"]
    assert [each.redelivered for each in found] == [True, True, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_sent_but_never_looked_at_counts_as_delivered(session: Session, kind: str) -> None:
    session.queue("queue", kind)
    session.broker.consume("worker", "queue", prefetch=10)
    session.send("queue", "a")
    session.ready("queue", 0)

    session.lose("worker")

    (found,) = session.drain("queue", 1)
    assert found.redelivered


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_connection_gives_to_the_other_consumers(session: Session, kind: str) -> None:
    held(session, kind, count=3, prefetch=2)
    session.broker.consume("other", "queue", prefetch=10)
    assert bodies(session.take("other", 1)) == ["c"]

    session.lose("worker")

    assert bodies(session.take("other", 2)) == ["a", "b"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_consumer_keeps_what_it_holds(session: Session, kind: str) -> None:
    a, b = held(session, kind, count=3, prefetch=2)

    session.broker.cancel("worker", "queue")

    session.ready("queue", 1)
    session.broker.ack(a)
    session.ready("queue", 1)
    session.lose("worker")
    assert bodies(sorted(session.drain("queue", 2), key=lambda each: each.body)) == [b.body, "c"]


def test_settling_twice_closes_the_channel(session: Session) -> None:
    a, _ = held(session, "classic", count=2)
    session.broker.ack(a)
    session.take("worker", 0)

    def settle_again() -> None:
        session.broker.ack(a)
        session.take("worker", 0)

    with pytest.raises(Refused) as refused:
        settle_again()

    assert refused.value.code == 406

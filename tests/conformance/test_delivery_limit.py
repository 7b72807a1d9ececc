"""Quorum queues count failed deliveries, and say so; beyond a limit a message dies."""

from conformance.adapter import Delivery, Session, bodies
from teardown_lab.simulator.versions import Ending


def limited(session: Session, limit: int | None, prefetch: int = 10, *sent: str) -> list[Delivery]:
    arguments = {} if limit is None else {"delivery_limit": limit}
    session.dead_letter_queue()
    session.queue("queue", "quorum", dead_letter_exchange="dead", **arguments)
    session.send("queue", *(sent or ("a",)))
    session.broker.consume("worker", "queue", prefetch=prefetch)
    return session.take("worker", min(prefetch, len(sent or ("a",))))


def test_the_first_delivery_has_no_count_and_later_ones_count_up(session: Session) -> None:
    (delivery,) = limited(session, 20)
    counts = [delivery.delivery_count]
    for _ in range(3):
        session.broker.reject(delivery, requeue=True)
        (delivery,) = session.take("worker", 1)
        counts.append(delivery.delivery_count)

    assert counts == [None, 1, 2, 3]


def test_a_classic_queue_counts_nothing(session: Session) -> None:
    session.queue("queue")
    session.send("queue", "a")
    session.broker.consume("worker", "queue", prefetch=1)
    (delivery,) = session.take("worker", 1)
    for _ in range(30):
        session.broker.reject(delivery, requeue=True)
        (delivery,) = session.take("worker", 1)

    assert (delivery.delivery_count, delivery.redelivered) == (None, True)


def test_the_delivery_after_the_limit_is_the_last(session: Session) -> None:
    """With a limit of 2 there are three deliveries; the third return is one too many."""
    (delivery,) = limited(session, 2)
    for _ in range(2):
        session.broker.reject(delivery, requeue=True)
        (delivery,) = session.take("worker", 1)

    session.broker.reject(delivery, requeue=True)

    session.ready("queue", 0)
    (dead,) = session.drain("graveyard", 1)
    assert dead.deaths == (("queue", "delivery_limit", 1, "in", ("queue",)),)
    session.take("worker", 0)


def test_a_limit_of_zero_allows_one_delivery(session: Session) -> None:
    (delivery,) = limited(session, 0)

    session.broker.reject(delivery, requeue=True)

    session.ready("graveyard", 1)


def test_without_a_limit_of_its_own_a_queue_has_the_default(session: Session) -> None:
    default = session.version.delivery_limit_default
    (delivery,) = limited(session, None)
    for _ in range(20 if default is None else default):
        session.broker.reject(delivery, requeue=True)
        (delivery,) = session.take("worker", 1)

    session.broker.reject(delivery, requeue=True)

    if default is None:
        (delivery,) = session.take("worker", 1)
        assert delivery.delivery_count == 21
    else:
        session.ready("graveyard", 1)


def test_nack_counts_as_reject_does_before_4_3(session: Session) -> None:
    (delivery,) = limited(session, 1)
    session.broker.nack(delivery, requeue=True)
    (delivery,) = session.take("worker", 1)

    assert delivery.redelivered
    if Ending.NACKED_BACK in session.version.failures or session.version.limit_counts_returns:
        assert delivery.delivery_count == 1
        session.broker.nack(delivery, requeue=True)
        session.ready("graveyard", 1)
    else:
        assert delivery.delivery_count is None
        for _ in range(5):
            session.broker.nack(delivery, requeue=True)
            (delivery,) = session.take("worker", 1)
        session.ready("graveyard", 0)


def test_acquisitions_are_counted_since_4_3(session: Session) -> None:
    (delivery,) = limited(session, 20)
    assert delivery.acquired_count is None
    session.broker.nack(delivery, requeue=True)
    (delivery,) = session.take("worker", 1)
    session.broker.reject(delivery, requeue=True)
    (delivery,) = session.take("worker", 1)

    assert delivery.acquired_count == (2 if session.version.has_acquired_count else None)


def test_a_lost_connection_counts(session: Session) -> None:
    limited(session, 1)
    session.lose("worker")
    session.broker.consume("worker", "queue", prefetch=1)
    (delivery,) = session.take("worker", 1)
    assert (delivery.delivery_count, delivery.redelivered) == (1, True)

    session.lose("worker")

    session.ready("queue", 0)
    (dead,) = session.drain("graveyard", 1)
    assert dead.deaths == (("queue", "delivery_limit", 1, "in", ("queue",)),)


def test_all_that_a_lost_consumer_held_has_failed(session: Session) -> None:
    """With more than one in flight, the innocent hit the limit together with the guilty."""
    limited(session, 0, 3, "a", "b", "c", "d")

    session.lose("worker")

    session.ready("queue", 1)
    assert bodies(session.drain("graveyard", 3)) == ["a", "b", "c"]


def test_a_message_beyond_the_limit_is_dropped_without_a_dead_letter_exchange(
    session: Session,
) -> None:
    session.queue("queue", "quorum", delivery_limit=0)
    session.send("queue", "a")
    session.broker.consume("worker", "queue", prefetch=1)
    (delivery,) = session.take("worker", 1)

    session.broker.reject(delivery, requeue=True)

    session.take("worker", 0)
    session.ready("queue", 0)


def test_a_return_beyond_the_limit_leaves_a_consumer_more_room_in_3_10(session: Session) -> None:
    """Its prefetch has grown by one, for good."""
    (delivery,) = limited(session, 0, 1)

    session.broker.reject(delivery, requeue=True)
    session.ready("graveyard", 1)
    session.send("queue", "b", "c", "d")

    session.take("worker", 2 if session.version.limit_raises_prefetch else 1)

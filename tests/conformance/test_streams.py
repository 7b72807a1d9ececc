"""Streams over AMQP 0-9-1: read by offset, settled, and never used up."""

import pytest

from conformance.adapter import Delivery, Refused, Session, bodies

STREAM = "a.stream"


def offsets(deliveries: list[Delivery]) -> list[int]:
    return [dict(each.headers)["x-stream-offset"] for each in deliveries]


def test_a_reader_begins_at_the_first_or_at_the_next_message(session: Session) -> None:
    session.queue(STREAM, "stream")
    session.send(STREAM, "a", "b")

    session.broker.consume("whole", STREAM, prefetch=10, begin="first")
    session.broker.consume("new", STREAM, prefetch=10, begin="next")
    assert bodies(session.take("whole", 2)) == ["a", "b"]
    session.send(STREAM, "c")

    assert bodies(session.take("whole", 1)) == ["c"]
    assert bodies(session.take("new", 1)) == ["c"]


def test_offsets_count_from_zero_and_are_the_same_for_all(session: Session) -> None:
    session.queue(STREAM, "stream")
    session.send(STREAM, "a", "b", "c")

    for client in ("one", "two"):
        session.broker.consume(client, STREAM, prefetch=10)
        assert offsets(session.take(client, 3)) == [0, 1, 2]


def test_a_reader_gets_more_only_as_it_settles(session: Session) -> None:
    session.queue(STREAM, "stream")
    session.send(STREAM, "a", "b", "c", "d")
    session.broker.consume("reader", STREAM, prefetch=2)
    first, second = session.take("reader", 2)

    session.broker.ack(first)
    session.broker.ack(second)

    assert bodies(session.take("reader", 2)) == ["c", "d"]


def test_a_lost_reader_begins_anew_and_nothing_is_redelivered(session: Session) -> None:
    session.queue(STREAM, "stream")
    session.send(STREAM, "a", "b")
    session.broker.consume("reader", STREAM, prefetch=10)
    session.take("reader", 2)
    session.lose("reader")

    session.broker.consume("reader", STREAM, prefetch=10)

    found = session.take("reader", 2)
    assert bodies(found) == ["a", "b"]
    assert not any(each.redelivered for each in found)


def test_rejecting_means_no_more_than_acknowledging_since_4_0(session: Session) -> None:
    """3.10 closes the connection."""
    session.queue(STREAM, "stream")
    session.send(STREAM, "a", "b", "c", "d")
    session.broker.consume("reader", STREAM, prefetch=2)
    first, second = session.take("reader", 2)

    def reject() -> None:
        session.broker.reject(first, requeue=True)
        session.broker.reject(second, requeue=False)
        session.take("reader", 2)

    if session.version.streams_take_rejects:
        reject()
    else:
        with pytest.raises(Refused) as refused:
            reject()
        assert refused.value.code == 540

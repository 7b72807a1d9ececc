"""Time and length: messages that expire, queues that overflow, queues that expire."""

import pytest

from conformance.adapter import Delivery, Session, bodies

KINDS = ["classic", "quorum"]
TTL_MS = 150
LONG_MS = 900
QUORUM_LOOKS_MS = 5_000
"""How often a quorum queue looks whether it is to expire (seen)."""


def first_death(found: list[Delivery]) -> list[tuple[str, str]]:
    return [(each.deaths[0][0], each.deaths[0][1]) for each in found]


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_that_nobody_takes_expires(session: Session, kind: str) -> None:
    session.dead_letter_queue()
    session.queue("queue", kind, message_ttl=TTL_MS, dead_letter_exchange="dead")
    session.send("queue", "a", "b")

    session.broker.wait(TTL_MS)

    session.ready("queue", 0)
    found = session.drain("graveyard", 2)
    assert bodies(found) == ["a", "b"]
    assert first_death(found) == [("queue", "expired")] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_that_a_consumer_holds_does_not_expire(session: Session, kind: str) -> None:
    session.dead_letter_queue()
    session.queue("queue", kind, message_ttl=TTL_MS, dead_letter_exchange="dead")
    session.broker.consume("worker", "queue", prefetch=1)
    session.send("queue", "held", "waits")
    (held,) = session.take("worker", 1)

    session.broker.wait(TTL_MS)
    assert bodies(session.drain("graveyard", 1)) == ["waits"]
    session.broker.ack(held)

    session.take("worker", 0)
    session.ready("graveyard", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_returned_message_keeps_its_time_of_expiry(session: Session, kind: str) -> None:
    """A message that has come of age at its consumer is never delivered again."""
    session.dead_letter_queue()
    limit = {"delivery_limit": 20} if kind == "quorum" else {}
    session.queue("queue", kind, message_ttl=TTL_MS, dead_letter_exchange="dead", **limit)
    session.broker.consume("worker", "queue", prefetch=1)
    session.send("queue", "a")
    (held,) = session.take("worker", 1)
    session.broker.wait(TTL_MS)

    session.broker.reject(held, requeue=True)

    (dead,) = session.drain("graveyard", 1)
    assert first_death([dead]) == [("queue", "expired")]
    session.take("worker", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_lost_consumer_held_too_long_expires(session: Session, kind: str) -> None:
    session.dead_letter_queue()
    session.queue("queue", kind, message_ttl=TTL_MS, dead_letter_exchange="dead")
    session.broker.consume("worker", "queue", prefetch=2)
    session.send("queue", "a", "b")
    session.take("worker", 2)
    session.broker.wait(TTL_MS)

    session.lose("worker")

    assert bodies(session.drain("graveyard", 2)) == ["a", "b"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_expired_message_is_gone_without_a_dead_letter_exchange(
    session: Session, kind: str
) -> None:
    session.queue("queue", kind, message_ttl=TTL_MS)
    session.send("queue", "a")

    session.broker.wait(TTL_MS)

    session.ready("queue", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_oldest_ready_messages_overflow(session: Session, kind: str) -> None:
    session.dead_letter_queue()
    session.queue("queue", kind, max_length=2, dead_letter_exchange="dead")

    session.send("queue", "a", "b", "c", "d")

    found = session.drain("graveyard", 2)
    assert bodies(found) == ["a", "b"]
    assert first_death(found) == [("queue", "maxlen")] * 2
    assert bodies(session.drain("queue", 2)) == ["c", "d"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_consumers_hold_does_not_count_for_the_length(session: Session, kind: str) -> None:
    session.dead_letter_queue()
    session.queue("queue", kind, max_length=1, dead_letter_exchange="dead")
    session.broker.consume("worker", "queue", prefetch=2)

    session.send("queue", "a", "b", "c")
    session.take("worker", 2)
    session.ready("graveyard", 0)
    session.send("queue", "d")

    assert bodies(session.drain("graveyard", 1)) == ["c"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_returned_message_overflows_first_where_nobody_has_room(
    session: Session, kind: str
) -> None:
    session.dead_letter_queue()
    limit = {"delivery_limit": 20} if kind == "quorum" else {}
    session.queue("queue", kind, max_length=2, dead_letter_exchange="dead", **limit)
    session.broker.consume("worker", "queue", prefetch=1)
    session.send("queue", "a", "b", "c")
    (held,) = session.take("worker", 1)
    session.broker.cancel("worker", "queue")

    session.broker.reject(held, requeue=True)

    assert bodies(session.drain("graveyard", 1)) == ["a"]
    assert bodies(session.drain("queue", 2)) == ["b", "c"]


def test_a_classic_queue_drops_a_returned_message_before_it_delivers(session: Session) -> None:
    """The consumer that returns it has room again, and still the message overflows."""
    session.dead_letter_queue()
    session.queue("queue", max_length=1, dead_letter_exchange="dead")
    session.broker.consume("worker", "queue", prefetch=1)
    session.send("queue", "a", "b")
    (held,) = session.take("worker", 1)

    session.broker.reject(held, requeue=True)

    assert bodies(session.take("worker", 1)) == ["b"]
    assert bodies(session.drain("graveyard", 1)) == ["a"]


def test_a_quorum_queue_delivers_a_returned_message_before_it_drops(session: Session) -> None:
    session.dead_letter_queue()
    session.queue("queue", "quorum", max_length=1, dead_letter_exchange="dead", delivery_limit=20)
    session.broker.consume("worker", "queue", prefetch=1)
    session.send("queue", "a", "b")
    (held,) = session.take("worker", 1)

    session.broker.reject(held, requeue=True)

    assert bodies(session.take("worker", 1)) == ["a"]
    session.ready("graveyard", 0)
    session.ready("queue", 1)


def test_what_overflows_at_once_is_dead_lettered_newest_first_before_4_3(session: Session) -> None:
    session.dead_letter_queue()
    session.queue("queue", "quorum", max_length=1, dead_letter_exchange="dead", delivery_limit=20)
    session.broker.consume("worker", "queue", prefetch=4)
    session.send("queue", "a", "b", "c", "d")
    session.take("worker", 4)

    session.lose("worker")

    expected = ["c", "b", "a"] if session.version.overflow_is_reversed else ["a", "b", "c"]
    assert bodies(session.drain("graveyard", 3)) == expected
    assert bodies(session.drain("queue", 1)) == ["d"]


def test_an_unused_queue_expires_and_is_not_dead_lettered(session: Session) -> None:
    session.dead_letter_queue()
    session.queue("queue", expires=TTL_MS, dead_letter_exchange="dead")
    session.send("queue", "a")

    session.broker.wait(TTL_MS * 2)

    assert session.broker.publish("in", "queue", "late", mandatory=True).returned
    session.ready("graveyard", 0)


def test_a_consumer_keeps_a_queue_from_expiring(session: Session) -> None:
    session.queue("queue", expires=LONG_MS)
    session.broker.consume("worker", "queue", prefetch=1)

    session.broker.wait(LONG_MS * 3)
    session.send("queue", "a", mandatory=True)
    session.take("worker", 1)
    session.lose("worker")
    session.broker.wait(LONG_MS * 2)

    assert session.broker.publish("in", "queue", "late", mandatory=True).returned


def test_a_quorum_queue_expires_too_and_a_consumer_keeps_it(session: Session) -> None:
    for name in ("left", "held"):
        session.queue(name, "quorum", expires=LONG_MS)
    session.broker.consume("worker", "held", prefetch=1)

    session.broker.wait(LONG_MS + 2 * QUORUM_LOOKS_MS)

    assert session.broker.publish("in", "left", "late", mandatory=True).returned
    assert not session.broker.publish("in", "held", "in time", mandatory=True).returned


def test_declaring_again_renews_the_time_to_expiry(session: Session) -> None:
    session.queue("queue", expires=LONG_MS)
    session.broker.wait(LONG_MS * 2 // 3)

    session.queue("queue", expires=LONG_MS)
    session.broker.wait(LONG_MS * 2 // 3)

    assert not session.broker.publish("in", "queue", "in time", mandatory=True).returned

"""Where dead letters go, and what they tell: `x-death`, its neighbours, cycles."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from conformance.adapter import Delivery, Session, bodies
from vm_protocol.topology import ArgumentValue, Queue

KINDS = ["classic", "quorum"]


def kill(session: Session, queue: str, client: str = "killer") -> Delivery:
    """Reject the one message of a queue, without requeue."""
    session.broker.consume(client, queue, prefetch=1)
    (delivery,) = session.take(client, 1)
    session.broker.reject(delivery, requeue=False)
    session.take(client, 0)
    session.lose(client)
    return delivery


@pytest.mark.parametrize("kind", KINDS)
def test_a_rejected_message_is_dead_lettered_with_what_happened(
    session: Session, kind: str
) -> None:
    session.dead_letter_queue(kind=kind)
    session.queue("queue", kind, dead_letter_exchange="dead")
    session.send("queue", "a")

    kill(session, "queue")

    (dead,) = session.drain("graveyard", 1)
    dead = replace(dead, redelivered=False, delivery_count=None, acquired_count=None)
    last = [
        ("x-last-death-exchange", "in"),
        ("x-last-death-queue", "queue"),
        ("x-last-death-reason", "rejected"),
    ]
    assert dead == Delivery(
        queue="graveyard",
        body="a",
        deaths=(("queue", "rejected", 1, "in", ("queue",)),),
        headers=(
            ("x-first-death-exchange", "in"),
            ("x-first-death-queue", "queue"),
            ("x-first-death-reason", "rejected"),
            *(last if session.version.has_last_death else []),
        ),
    )


def test_nack_without_requeue_is_rejection_too(session: Session) -> None:
    session.dead_letter_queue()
    session.queue("queue", dead_letter_exchange="dead")
    session.send("queue", "a")
    session.broker.consume("worker", "queue", prefetch=1)
    (delivery,) = session.take("worker", 1)

    session.broker.nack(delivery, requeue=False)

    (dead,) = session.drain("graveyard", 1)
    assert dead.deaths == (("queue", "rejected", 1, "in", ("queue",)),)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_dead_letter_exchange_a_rejected_message_is_gone(
    session: Session, kind: str
) -> None:
    session.queue("none", kind)
    session.queue("missing", kind, dead_letter_exchange="nowhere")
    session.queue("unbound", kind, dead_letter_exchange="dead")
    for queue in ("none", "missing", "unbound"):
        session.send(queue, "a")

        kill(session, queue)

        session.ready(queue, 0)


def test_a_dead_letter_keeps_its_routing_key_unless_another_is_given(session: Session) -> None:
    session.broker.exchange("again")
    session.queue("keeps", dead_letter_exchange="again")
    session.queue("changes", dead_letter_exchange="again", dead_letter_routing_key="other")
    for queue, key in (("first", "keeps"), ("second", "other")):
        session.queue(queue)
        session.broker.bind(queue, "again", key)
    session.send("keeps", "a")
    session.send("changes", "b")

    kill(session, "keeps")
    kill(session, "changes")

    (a,) = session.drain("first", 1)
    (b,) = session.drain("second", 1)
    assert (a.deaths[0][4], b.deaths[0][4]) == (("keeps",), ("changes",))


@pytest.mark.parametrize("kind", KINDS)
def test_deaths_are_listed_newest_first_and_the_first_and_last_are_named(
    session: Session, kind: str
) -> None:
    session.broker.exchange("second")
    session.dead_letter_queue()
    session.queue("queue", kind, dead_letter_exchange="second")
    session.queue("later", kind, dead_letter_exchange="dead")
    session.broker.bind("later", "second", "queue")
    session.send("queue", "a")

    kill(session, "queue")
    kill(session, "later")

    (dead,) = session.drain("graveyard", 1)
    assert dead.deaths == (
        ("later", "rejected", 1, "second", ("queue",)),
        ("queue", "rejected", 1, "in", ("queue",)),
    )
    named = dict(dead.headers)
    assert named["x-first-death-queue"] == "queue"
    assert named.get("x-last-death-queue") == ("later" if session.version.has_last_death else None)


def test_dying_again_of_the_same_raises_the_count_and_moves_to_the_front(session: Session) -> None:
    """A retry loop: rejected from `queue` to `later`, rejected from there back."""
    session.broker.exchange("back")
    session.queue("queue", dead_letter_exchange="dead")
    session.queue("later", dead_letter_exchange="back")
    session.broker.bind("later", "dead", "")
    session.broker.bind("queue", "back", "queue")
    session.send("queue", "a")

    for _ in range(3):
        kill(session, "queue")
        kill(session, "later")

    (again,) = session.drain("queue", 1)
    assert again.deaths == (
        ("later", "rejected", 3, "dead", ("queue",)),
        ("queue", "rejected", 3, "in", ("queue",)),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_cycle_without_a_rejection_ends(session: Session, kind: str) -> None:
    """Overflow into a queue that overflows back: the message is dropped at its second coming."""
    session.broker.exchange("back")
    session.queue("queue", kind, max_length=1, dead_letter_exchange="dead")
    session.queue("later", kind, max_length=1, dead_letter_exchange="back")
    session.broker.bind("later", "dead", "")
    session.broker.bind("queue", "back", "queue")

    session.send("queue", "a", "b", "c")

    session.ready("queue", 1)
    session.ready("later", 1)
    assert bodies(session.drain("queue", 1)) == ["c"]
    assert bodies(session.drain("later", 1)) == ["b"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cycle_with_a_rejection_goes_on(session: Session, kind: str) -> None:
    session.queue("queue", kind, dead_letter_exchange="all")
    session.broker.bind("queue", "all", "")
    session.broker.consume("killer", "queue", prefetch=1)
    session.send("queue", "a")

    for _ in range(3):
        (delivery,) = session.take("killer", 1)
        session.broker.reject(delivery, requeue=False)

    (again,) = session.take("killer", 1)
    assert [death[:3] for death in again.deaths] == [("queue", "rejected", 3)]


def test_a_death_by_expiry_after_a_rejection_elsewhere_still_closes_no_cycle(
    session: Session,
) -> None:
    """Rejected from `queue`, expired in `later`, and back in `queue`: the usual delayed retry."""
    session.broker.exchange("back")
    session.queue("queue", dead_letter_exchange="dead")
    session.queue("later", message_ttl=50, dead_letter_exchange="back")
    session.broker.bind("later", "dead", "")
    session.broker.bind("queue", "back", "queue")
    session.send("queue", "a")

    for _ in range(2):
        kill(session, "queue")
        session.broker.wait(50)
        session.ready("queue", 1)

    (again,) = session.drain("queue", 1)
    assert [death[:3] for death in again.deaths] == [
        ("later", "expired", 2),
        ("queue", "rejected", 2),
    ]


def test_x_death_of_a_client_counts_before_4_0(session: Session) -> None:
    claimed: list[dict[str, Any]] = [
        {
            "queue": "queue",
            "reason": "rejected",
            "count": 7,
            "exchange": "elsewhere",
            "routing-keys": ["key"],
        }
    ]
    session.dead_letter_queue()
    session.queue("queue", dead_letter_exchange="dead")
    session.send("queue", "a", headers={"x-death": claimed})

    kill(session, "queue")

    (dead,) = session.drain("graveyard", 1)
    if session.version.trusts_client_deaths:
        assert dead.deaths == (("queue", "rejected", 8, "elsewhere", ("key",)),)
    else:
        assert dead.deaths == (("queue", "rejected", 1, "in", ("queue",)),)


def test_x_death_of_a_client_reaches_consumers(session: Session) -> None:
    """Whether the broker trusts it or not, it is delivered as a header until the first death."""
    claimed = [
        {"queue": "q", "reason": "expired", "count": 2, "exchange": "e", "routing-keys": ["k"]}
    ]
    session.queue("queue")
    session.send("queue", "a", headers={"x-death": claimed})

    (found,) = session.drain("queue", 1)

    assert found.deaths == (("q", "expired", 2, "e", ("k",)),)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_failed_deliveries_follow_a_dead_letter_since_4_0(
    session: Session, kind: str, target: str
) -> None:
    """4.0.5 counts only the rejection, and only between quorum queues."""
    died_of(session, kind, target, returns=2)

    (dead,) = session.drain("graveyard", 1)

    seen = (dead.redelivered, dead.delivery_count, dead.acquired_count)
    if session.version.classic_counts_failures:
        assert seen == ((True, 3, 3) if target == "quorum" else (True, None, None))
    elif session.version.failures_follow and (kind, target) == ("quorum", "quorum"):
        assert seen == (True, 1, None)
    else:
        assert seen == (False, None, None)


def test_failures_that_follow_count_for_the_next_limit_since_4_3(session: Session) -> None:
    """A dead letter may reach its queue beyond that one's limit: the first return is its end."""
    died_of(session, "quorum", "quorum", returns=3)
    session.broker.consume("monitor", "graveyard", prefetch=1)
    (dead,) = session.take("monitor", 1)

    session.broker.reject(dead, requeue=True)

    session.take("monitor", 0 if session.version.classic_counts_failures else 1)


def test_even_a_nack_ends_a_dead_letter_that_is_beyond_the_limit(session: Session) -> None:
    died_of(session, "quorum", "quorum", returns=3)
    session.broker.consume("monitor", "graveyard", prefetch=1)
    (dead,) = session.take("monitor", 1)

    session.broker.nack(dead, requeue=True)

    session.take("monitor", 0 if session.version.classic_counts_failures else 1)


def died_of(session: Session, kind: str, target: str, returns: int) -> None:
    """Return a message some times, then reject it into `graveyard`, whose limit is 3."""
    arguments: dict[str, ArgumentValue] = {"x-queue-type": target}
    if target == "quorum":
        arguments["x-delivery-limit"] = 3
    session.broker.declare(Queue("graveyard", tuple(arguments.items()), (("dead", ""),)))
    own_limit = {"delivery_limit": 20} if kind == "quorum" else {}
    session.queue("queue", kind, dead_letter_exchange="dead", **own_limit)
    session.send("queue", "a")
    session.broker.consume("worker", "queue", prefetch=1)
    (delivery,) = session.take("worker", 1)
    for _ in range(returns):
        session.broker.reject(delivery, requeue=True)
        (delivery,) = session.take("worker", 1)
    session.broker.reject(delivery, requeue=False)
    session.ready("graveyard", 1)


def test_messages_that_die_undelivered_are_new_to_their_next_queue(session: Session) -> None:
    session.dead_letter_queue(kind="quorum")
    for kind in KINDS:
        session.queue(kind, kind, max_length=1, dead_letter_exchange="dead")
        session.send(kind, "a", "b")

    for dead in session.drain("graveyard", 2):
        assert not dead.redelivered
        assert (dead.delivery_count, dead.acquired_count) == (None, None)


def test_a_classic_queue_overlooks_failures_elsewhere_if_somebody_waits(session: Session) -> None:
    """Only what has waited in the queue is flagged, where failures follow at all."""
    session.dead_letter_queue()
    session.queue("queue", dead_letter_exchange="dead")
    session.broker.consume("monitor", "graveyard", prefetch=1)
    session.send("queue", "a")
    kill(session, "queue")
    session.send("queue", "b")
    kill(session, "queue")

    (direct,) = session.take("monitor", 1)
    session.broker.ack(direct)
    (waited,) = session.take("monitor", 1)

    assert not direct.redelivered
    assert waited.redelivered == session.version.classic_counts_failures


def test_each_death_turns_the_older_ones_around_in_3_10(session: Session) -> None:
    names = ("first", "second", "third")
    for name, following in itertools.pairwise(names):
        session.broker.exchange(f"after-{name}")
        session.queue(name, dead_letter_exchange=f"after-{name}")
        session.broker.exchange(f"after-{following}")
    session.queue("third", dead_letter_exchange="dead")
    session.dead_letter_queue()
    session.broker.bind("second", "after-first", "first")
    session.broker.bind("third", "after-second", "first")
    session.send("first", "a")

    for name in names:
        kill(session, name)

    (dead,) = session.drain("graveyard", 1)
    expected = ["third", "first", "second"] if session.version.deaths_flip else names[::-1]
    assert [death[0] for death in dead.deaths] == list(expected)


def test_the_last_death_is_named_as_it_was_and_not_as_it_is_listed(session: Session) -> None:
    """The entry in `x-death` keeps the exchange of the first death of its kind."""
    session.broker.exchange("back")
    session.queue("queue", dead_letter_exchange="dead")
    session.queue("later", dead_letter_exchange="back")
    session.broker.bind("later", "dead", "")
    session.broker.bind("queue", "back", "queue")
    session.send("queue", "a")
    for queue in ("queue", "later", "queue"):
        kill(session, queue)

    (dead,) = session.drain("later", 1)

    assert dead.deaths[0] == ("queue", "rejected", 2, "in", ("queue",))
    last = "back" if session.version.has_last_death else None
    assert dict(dead.headers).get("x-last-death-exchange") == last

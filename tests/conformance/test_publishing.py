"""Routing and confirms: exchanges, bindings, mandatory messages, what a deletion does."""

import pytest

from conformance.adapter import Gone, Refused, Sent, Session, bodies, queue_of


def test_messages_come_in_the_order_of_publishing(session: Session) -> None:
    for kind in ("classic", "quorum"):
        session.queue(kind, kind)
        session.send(kind, "a", "b", "c")

        assert bodies(session.drain(kind, 3)) == ["a", "b", "c"]


def test_an_unroutable_message_is_confirmed(session: Session) -> None:
    sent = session.broker.publish("in", "nobody", "lost")

    assert sent == Sent(confirmed=True, returned=False)


def test_an_unroutable_mandatory_message_is_returned_before_its_confirm(session: Session) -> None:
    sent = session.broker.publish("in", "nobody", "lost", mandatory=True)

    assert sent == Sent(confirmed=True, returned=True)


def test_a_mandatory_message_is_returned_only_if_no_queue_matched(session: Session) -> None:
    for name in ("one", "two"):
        session.queue(name)
        session.broker.bind(name, "in", "vm")
    session.broker.unbind("two", "in", "vm")

    session.send("vm", "half", mandatory=True)

    session.ready("one", 1)
    session.ready("two", 0)


def test_publishing_to_no_exchange_closes_the_channel(session: Session) -> None:
    with pytest.raises(Refused) as refused:
        session.broker.publish("nowhere", "key", "lost")

    assert refused.value.code == 404


def test_a_binding_is_there_once_however_often_it_is_made(session: Session) -> None:
    session.queue("one")
    session.broker.bind("one", "in", "one")

    session.send("one", "a")
    session.ready("one", 1)
    session.broker.unbind("one", "in", "one")

    assert session.broker.publish("in", "one", "b", mandatory=True).returned


def test_a_message_comes_once_however_many_bindings_match(session: Session) -> None:
    session.queue("one")
    session.broker.bind("one", "all", "x")
    session.broker.bind("one", "all", "y")

    session.send("", "a", exchange="all")
    session.ready("one", 1)
    session.broker.unbind("one", "all", "x")
    session.send("", "b", exchange="all")

    assert bodies(session.drain("one", 2)) == ["a", "b"]


def test_one_publish_reaches_all_queues_of_a_key(session: Session) -> None:
    for name, kind in (("one", "classic"), ("two", "quorum"), ("three", "classic")):
        session.queue(name, kind)
        session.broker.bind(name, "in", "vm")

    session.send("vm", "flush")

    for name in ("one", "two", "three"):
        assert bodies(session.drain(name, 1)) == ["flush"]


def test_unbinding_leaves_what_was_routed_before(session: Session) -> None:
    for kind in ("classic", "quorum"):
        session.queue(kind, kind)
        session.send(kind, "before", "also before")
        session.broker.consume("worker", kind, prefetch=1)
        session.take("worker", 1)

        session.broker.unbind(kind, "in", kind)

        assert session.broker.publish("in", kind, "after", mandatory=True).returned
        session.lose("worker")
        assert len(session.drain(kind, 2)) == 2


def test_unbinding_what_is_not_bound_is_no_error(session: Session) -> None:
    session.queue("one")

    session.broker.unbind("one", "in", "never")
    session.broker.unbind("one", "in", "one")
    session.broker.unbind("one", "in", "one")
    session.broker.unbind("nobody", "in", "key")


def test_binding_what_does_not_exist_closes_the_channel(session: Session) -> None:
    session.queue("one")

    for queue, exchange in (("nobody", "in"), ("one", "nowhere")):
        with pytest.raises(Refused) as refused:
            session.broker.bind(queue, exchange, "key")
        assert refused.value.code == 404


def test_consuming_what_does_not_exist_closes_the_channel(session: Session) -> None:
    with pytest.raises(Refused) as refused:
        session.broker.consume("worker", "nobody", prefetch=1)

    assert refused.value.code == 404


def test_declaring_again_changes_nothing(session: Session) -> None:
    session.queue("one", max_length=5)
    session.send("one", "a")

    session.queue("one", max_length=5)

    session.ready("one", 1)


def test_declaring_with_other_arguments_closes_the_channel(session: Session) -> None:
    session.queue("one", max_length=5)

    with pytest.raises(Refused) as refused:
        session.broker.declare(queue_of("one", "classic", max_length=6))

    assert refused.value.code == 406


def test_a_deleted_queue_is_not_dead_lettered_and_its_consumer_is_told(session: Session) -> None:
    session.dead_letter_queue()
    for kind in ("classic", "quorum"):
        session.queue(kind, kind, dead_letter_exchange="dead")
        session.send(kind, "held", "ready")
        session.broker.consume("worker", kind, prefetch=1)
        (held,) = session.take("worker", 1)

        session.broker.delete(kind)

        assert session.take_gone("worker") == Gone(kind)
        session.broker.reject(held, requeue=False)
        assert session.broker.publish("in", kind, "after", mandatory=True).returned
        session.lose("worker")
    session.ready("graveyard", 0)


def test_deleting_what_does_not_exist_is_no_error(session: Session) -> None:
    session.broker.delete("nobody")

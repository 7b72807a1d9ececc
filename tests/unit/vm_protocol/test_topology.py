"""The broker's side as data: dead-letter exchanges, delivery limits, names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import any_message

from vm_protocol import limits, topology
from vm_protocol.messages import Message
from vm_protocol.topology import Mailbox, Queue, parse_mailbox

QUEUES: list[Queue] = [
    *topology.SHARED_QUEUES,
    topology.MANAGER_REPLIES_QUEUE,
    topology.worker_commands("worker-1"),
    topology.worker_replies("worker-1"),
    topology.client_replies("vm-1"),
    Mailbox("vm-1", 0).queue(),
]


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: str(queue.name))
def test_every_queue_but_streams_and_the_dead_letter_queue_dead_letters(queue: Queue) -> None:
    exempt = queue.kind == "stream" or queue == topology.DEAD_LETTERS_QUEUE

    target = dict(queue.arguments).get("x-dead-letter-exchange")

    assert target == (None if exempt else topology.DEAD_LETTERS.name)


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: str(queue.name))
def test_exactly_the_quorum_queues_have_a_delivery_limit(queue: Queue) -> None:
    quorum = 1000 if queue == topology.DEAD_LETTERS_QUEUE else 20
    limit = dict(queue.arguments).get("x-delivery-limit")

    assert limit == (quorum if queue.kind == "quorum" else None)


def test_the_kinds_of_queues_are_those_of_the_design() -> None:
    assert {queue.name: queue.kind for queue in QUEUES} == {
        "manager.commands": "quorum",
        "vcpu.placement": "quorum",
        "teardown.dead-letters": "quorum",
        "teardown.journal": "stream",
        "teardown.progress": "stream",
        "manager.replies": "classic",
        "worker.worker-1.commands": "quorum",
        "worker.worker-1.replies": "classic",
        "client.vm-1.replies": "classic",
        "vcpu.vm-1.0.1": "classic",
    }


def test_only_the_manager_s_commands_elect_a_single_active_consumer() -> None:
    elected = [q.name for q in QUEUES if dict(q.arguments).get("x-single-active-consumer")]

    assert elected == ["manager.commands"]


def test_nobody_uses_the_default_exchange() -> None:
    bound = {exchange for queue in QUEUES for exchange, _ in queue.bindings}

    assert all(exchange.name for exchange in topology.EXCHANGES)
    assert bound == {exchange.name for exchange in topology.EXCHANGES} - {topology.REQUESTS.name}


def test_a_mailbox_is_bound_by_nobody_but_the_manager_and_bounded_in_time_and_length() -> None:
    queue = Mailbox("vm-1", 0).queue()

    assert queue.bindings == ()
    assert dict(queue.arguments) == {
        "x-message-ttl": limits.MAILBOX_TTL_MS,
        "x-max-length": limits.MAILBOX_LENGTH_MAX,
        "x-expires": limits.ORPHAN_EXPIRES_MS,
        "x-dead-letter-exchange": "dead-letters",
    }


@given(message=any_message, vcpu=st.integers(0, limits.VCPUS_MAX - 1))
def test_a_mailbox_name_leads_back_to_its_mailbox(message: Message, vcpu: int) -> None:
    mailbox = Mailbox(message.vm, vcpu, message.incarnation)

    assert parse_mailbox(mailbox.name) == mailbox


@given(name=st.text() | st.from_regex(r"vcpu\.[a-z0-9]+\.\d+\.\d+"))
def test_a_name_is_no_mailbox_s_or_the_very_name_of_the_one_that_it_stands_for(name: str) -> None:
    mailbox = parse_mailbox(name)

    assert mailbox is None or mailbox.name == name


@pytest.mark.parametrize(
    "name",
    [
        "vcpu.placement",
        "vcpu.a.b.1.1",
        "vcpu.a.01.1",
        "vcpu.a.\u0663.1",
        "vcpu.a.1.1\n",
        "vcpu.a.1.99999999999",
    ],
)
def test_what_only_looks_like_a_mailbox_is_none(name: str) -> None:
    assert parse_mailbox(name) is None


def test_the_longest_queue_name_fits_a_short_string() -> None:
    vm = "v" * limits.NAME_CHARACTERS_MAX
    names = [
        Mailbox(vm, limits.VCPUS_MAX - 1, limits.COUNT_MAX).name,
        topology.client_replies(vm).name,
        topology.worker_commands(vm).name,
    ]

    assert max(map(len, names)) <= 255

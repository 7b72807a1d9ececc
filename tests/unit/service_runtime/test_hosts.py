"""Several hosts in one URL: how it is read, who tries which host when, and what queues become."""

import pytest

from service_runtime.amqp.endpoint import Endpoint, EndpointError
from service_runtime.amqp.lost_session import Reconnecting
from service_runtime.settings import SettingsError, read_settings
from teardown_lab.broker.address import without_password
from vm_protocol import limits, topology

URL = "amqp://worker:s3cret@one,two:5673,[::1]:5674/%2F"


def test_a_url_names_several_hosts_of_one_broker() -> None:
    endpoints = Endpoint(URL).each()

    found = [endpoint.parameters() for endpoint in endpoints]
    assert [(each.host, each.port) for each in found] == [
        ("one", 5672),
        ("two", 5673),
        ("::1", 5674),
    ]
    assert {each.virtual_host for each in found} == {"/"}
    assert {endpoint.user for endpoint in endpoints} == {"worker"}
    assert [endpoint.host for endpoint in endpoints] == ["one", "two:5673", "[::1]:5674"]


@pytest.mark.parametrize(
    "url",
    [
        "amqp://a:s3cret@one,,two/",
        "amqp://a:s3cret@one,amqp://a:s3cret@two/",
        "amqp://a:s3cret@one,two:port/",
        "amqp://a:s3cret@[::1/",
    ],
)
def test_a_list_of_hosts_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(
        SettingsError, match=r"AMQP_URL: .*write amqp://user:password@host"
    ) as error:
        read_settings({"AMQP_URL": url})

    assert "s3cret" not in str(error.value)
    with pytest.raises(EndpointError):
        [endpoint.parameters() for endpoint in Endpoint(url).each()]


def test_all_hosts_are_shown_and_no_password() -> None:
    assert without_password(URL) == "amqp://worker@one,two:5673,[::1]:5674/%2F"


def test_hosts_are_tried_in_turn_from_one_that_depends_on_the_name() -> None:
    firsts = set()
    for number in range(30):
        reconnecting = Reconnecting(Endpoint(URL), f"worker.w-{number}")
        hosts = [reconnecting.next_endpoint().host for _ in range(6)]
        assert len(set(hosts[:3])) == 3
        assert hosts[3:] == hosts[:3]
        firsts.add(hosts[0])
    assert len(firsts) == 3


def test_the_pause_doubles_until_a_session_has_done_its_work() -> None:
    reconnecting = Reconnecting(Endpoint("amqp://one/"), "manager")

    pauses = [reconnecting.pause_ms() for _ in range(9)]
    reconnecting.caught_up()

    assert pauses[:3] == [50, 100, 200]
    assert pauses[-1] == limits.RECONNECT_MS_MAX
    assert reconnecting.pause_ms() == limits.RECONNECT_MS_MIN


@pytest.mark.parametrize(
    ("queues", "url", "is_replicated"),
    [
        ("auto", "amqp://one/", False),
        ("auto", "amqp://one,two/", True),
        ("quorum", "amqp://balancer/", True),
        ("classic", "amqp://one,two/", False),
    ],
)
def test_queues_are_replicated_where_hosts_are_several_or_the_setting_says_so(
    queues: str, url: str, is_replicated: bool
) -> None:
    endpoint = read_settings({"AMQP_URL": url, "AMQP_QUEUES": queues}).endpoint()

    assert {each.is_replicated for each in (endpoint, *endpoint.each())} == {is_replicated}


def test_a_replicated_queue_is_a_quorum_queue_with_a_limit_and_is_otherwise_the_same() -> None:
    mailbox = topology.Mailbox("vm", 3).queue()
    for queue in (mailbox, topology.MANAGER_REPLIES_QUEUE):
        quorum = topology.replicated(queue)

        assert (quorum.name, quorum.bindings, quorum.kind) == (queue.name, queue.bindings, "quorum")
        added = dict(quorum.arguments).items() - dict(queue.arguments).items()
        assert added == {
            ("x-queue-type", "quorum"),
            ("x-delivery-limit", limits.DELIVERY_LIMIT),
            ("x-dead-letter-strategy", "at-least-once"),
            ("x-overflow", "reject-publish"),
        }
    assert all(topology.replicated(queue) == queue for queue in topology.SHARED_QUEUES)


def test_a_service_without_a_url_has_one_host() -> None:
    assert [each.host for each in read_settings({}).endpoint().each()] == ["127.0.0.1:5672"]

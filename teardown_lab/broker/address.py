"""A broker's URL: say it without its password, knock at it, publish and delete queues there.

Nothing here starts a broker, and nothing here speaks the lab's own messages.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args
from urllib.parse import urlsplit

import pika
import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from service_runtime.amqp.endpoint import (
    Endpoint,
    EndpointError,
    QueuesSetting,
    hosts_of,
    reason_of,
)
from service_runtime.amqp.pika_packets import properties_of
from teardown_lab.broker.errors import BrokerMisnamed, BrokerUnavailable
from vm_protocol.codec import Packet

CONNECT_SECONDS_MAX = 5.0
CA_VARIABLE = "AMQP_CA_FILE"
QUEUES_VARIABLE = "AMQP_QUEUES"


def ca_file() -> str:
    """Return the file that an amqps:// broker's certificate must be signed by; empty: none."""
    return os.environ.get(CA_VARIABLE, "")


def endpoint_of(url: str, *, topology_given: bool = False) -> Endpoint:
    """Return a broker's endpoint, with the rest as services have it from their environment.

    Raises:
        BrokerMisnamed: The environment has a word that no service takes.
    """
    queues = os.environ.get(QUEUES_VARIABLE) or "auto"
    for known in get_args(QueuesSetting):
        if queues == known:
            return Endpoint(url, ca_file(), topology_given, known)
    raise BrokerMisnamed(f"{QUEUES_VARIABLE}={queues}: write {', '.join(get_args(QueuesSetting))}")


def without_password(url: str) -> str:
    """Return a broker's URL as it may be shown: no password, no query."""
    try:
        parts = urlsplit(url)
        user = parts.username
        hosts = ",".join(_shown(host) for host in hosts_of(url))
    except ValueError:
        return "amqp://(not readable)"
    return "".join([f"{parts.scheme}://", f"{user}@" if user else "", hosts, parts.path])


def _shown(host: str) -> str:
    """Return a host as it may be shown: what is no host may be somebody's password."""
    parts = urlsplit(f"//{host}")
    name = parts.hostname or "localhost"
    name = f"[{name}]" if ":" in name else name
    return f"{name}:{parts.port}" if parts.port else name


def listens(port: int) -> bool:
    """Tell whether something accepts connections on a port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def knock(url: str, *, seconds_max: float = CONNECT_SECONDS_MAX) -> str:
    """Open and close an AMQP connection, and return what answers, as in "RabbitMQ 4.1.0".

    Raises:
        BrokerMisnamed: The URL is not one.
        BrokerUnavailable: Nobody answers, or the login is refused.
    """
    properties = server_properties(url, seconds_max=seconds_max)
    return f"{properties.get('product', 'a broker')} {properties.get('version', '')}".strip()


def server_properties(
    url: str, *, seconds_max: float = CONNECT_SECONDS_MAX
) -> Mapping[str, object]:
    """Open and close an AMQP connection, and return what the server tells about itself.

    Raises:
        BrokerUnavailable: As `knock` does.
    """
    with connected(url, seconds_max) as connection:
        # pika's blocking adapter keeps the server's properties to itself.
        properties = getattr(getattr(connection, "_impl", None), "server_properties", None)
        return dict(properties or {})


_NOT_FOUND = 404
_RESOURCE_LOCKED = 405


def delete_queues(
    url: str, names: Sequence[str], exchanges: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Delete queues, then exchanges; those that do not exist count as deleted.

    Returns:
        The names that were deleted, and one line for each that the broker refused to delete.

    Raises:
        BrokerUnavailable: The broker does not answer, or it went away meanwhile.
    """
    deleted: list[str] = []
    refused: list[str] = []
    with connected(url, CONNECT_SECONDS_MAX) as connection:
        for kind, name in _with_kind(names, exchanges):
            # A refusal closes its channel: each deletion has one of its own.
            channel = connection.channel()
            try:
                if kind == "queue":
                    channel.queue_delete(name)
                else:
                    channel.exchange_delete(name)
            except pika.exceptions.ChannelClosedByBroker as error:
                if error.reply_code == _NOT_FOUND:
                    deleted.append(name)
                elif _is_seen(connection, kind, name):
                    refused.append(f"{kind} {name}: {error.reply_text}")
            else:
                deleted.append(name)
                channel.close()
    return deleted, refused


def publish(url: str, exchange: str, addressed: Iterable[tuple[str, Packet]]) -> None:
    """Publish packets, each to its routing key; an exchange that is not there takes none.

    Raises:
        BrokerUnavailable: The broker does not answer, or it went away before it had confirmed.
    """
    with connected(url, CONNECT_SECONDS_MAX) as connection:
        channel = connection.channel()
        try:
            channel.confirm_delivery()
            for key, packet in addressed:
                properties = properties_of(packet, Endpoint(url).user)
                channel.basic_publish(exchange, key, packet.body, properties)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _NOT_FOUND:
                raise


def _is_seen(connection: pika.BlockingConnection, kind: str, name: str) -> bool:
    """Tell whether what may not be deleted is there, as far as this user may know.

    What it may not even look up (4.3) is another user's to clear away.
    """
    channel = connection.channel()
    try:
        if kind == "queue":
            channel.queue_declare(name, passive=True)
        else:
            channel.exchange_declare(name, passive=True)
    except pika.exceptions.ChannelClosedByBroker as error:
        return error.reply_code == _RESOURCE_LOCKED
    channel.close()
    return True


def _with_kind(names: Iterable[str], exchanges: Iterable[str]) -> Iterator[tuple[str, str]]:
    yield from (("queue", name) for name in names)
    yield from (("exchange", name) for name in exchanges)


@contextlib.contextmanager
def connected(url: str, seconds_max: float) -> Iterator[pika.BlockingConnection]:
    """Open a connection for a few questions, and close it.

    Raises:
        BrokerUnavailable: The broker does not answer, or it went away meanwhile.
    """
    parameters = _parameters(url, seconds_max)
    shown = without_password(url)
    try:
        with _quiet_pika():
            # Of several hosts, the first that answers (pika tries them in turn).
            connection = pika.BlockingConnection(parameters)
            try:
                yield connection
            finally:
                if connection.is_open:
                    connection.close()
    except pika.exceptions.ProbableAuthenticationError as error:
        raise BrokerUnavailable(
            f"the broker at {shown} refuses the login: check user and password in the URL"
        ) from error
    except pika.exceptions.ProbableAccessDeniedError as error:
        raise BrokerUnavailable(
            f"the broker at {shown} refuses the virtual host: check the URL's path "
            "(the default virtual host is written /%2F)"
        ) from error
    except (pika.exceptions.AMQPError, AMQPConnectorException, OSError) as error:
        raise BrokerUnavailable(
            f"no broker answers at {shown} ({reason_of(error)}): start one there, or choose "
            "another with --broker"
        ) from error


def _parameters(url: str, seconds_max: float) -> list[pika.URLParameters]:
    try:
        found = [endpoint.parameters() for endpoint in endpoint_of(url).each()]
    except EndpointError as error:
        shown = without_password(url)
        raise BrokerMisnamed(f"{shown} is not a broker's URL: {error}") from error
    for parameters in found:
        parameters.socket_timeout = seconds_max
        parameters.stack_timeout = seconds_max
        parameters.blocked_connection_timeout = seconds_max
        parameters.connection_attempts = 1
    return found


@contextlib.contextmanager
def _quiet_pika() -> Iterator[None]:
    """Keep pika from logging a failure that becomes an exception's text anyway."""
    logger = logging.getLogger("pika")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)

"""A broker as one connection reaches it: its URL, its certificate authority, its topology's owner.

A URL names one host, or all of a cluster: `amqp://user:password@host-1,host-2:5673/%2F`. It may
hold a password: no text made here has one.
"""

import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote, unquote, urlsplit

import pika

from vm_protocol import limits

SCHEMES: Final = ("amqp://", "amqps://")
_GUEST: Final = "guest"
"""Who connects when a URL names nobody, and that user's password (AMQP URI specification)."""


_FORM: Final = "write amqp://user:password@host:5672/%2F"
QueueKind = Literal["auto", "classic", "quorum"]
"""What mailboxes and reply queues are; "auto" makes them quorum queues where hosts are several."""


class EndpointError(ValueError):
    """A URL, or the file of its certificate authority, that no connection can be made with."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a connection goes.

    `ca_file` holds the certificates that an `amqps://` broker's must be signed by; empty: the
    system's. `topology_given` says that exchanges and shared queues are the deployment's: then
    they are looked up, and never declared. `queues` says what a vCPU's mailbox and a reply queue
    are (docs/decisions/0016-queues-of-a-cluster.md). `heartbeat_s` is the client's:
    in pika it wins.
    """

    url: str = field(repr=False)
    ca_file: str = ""
    topology_given: bool = False
    queues: QueueKind = "auto"
    heartbeat_s: int = limits.HEARTBEAT_S

    @property
    def user(self) -> str:
        """Return the user that connects; the broker validates it in every message (user-id)."""
        return unquote(urlsplit(self.url).username or _GUEST)

    @property
    def host(self) -> str:
        """Return the host that the URL names, with its port; of several, all of them."""
        return ",".join(hosts_of(self.url))

    @property
    def is_replicated(self) -> bool:
        """Tell whether every queue is one that outlives any one node of a cluster."""
        return self.queues == "quorum" or (self.queues == "auto" and len(hosts_of(self.url)) > 1)

    def each(self) -> tuple["Endpoint", ...]:
        """Return an endpoint for each host that the URL names, in its order.

        Raises:
            EndpointError: The URL cannot be read.
        """
        if not self.url.startswith(SCHEMES):
            raise EndpointError("it does not begin with amqp:// or amqps://")
        try:
            parts, hosts = urlsplit(self.url), hosts_of(self.url)
        except ValueError:
            raise EndpointError(_FORM) from None
        if not all(map(_has_port, hosts)):
            raise EndpointError(f"a port is a number from 1 to 65535: {_FORM}")
        if len(hosts) > 1 and (not all(hosts) or "://" in self.url.removeprefix(parts.scheme)[3:]):
            raise EndpointError("write amqp://user:password@host-1,host-2,host-3:5673/%2F")
        login, at, _ = parts.netloc.rpartition("@")
        queues: QueueKind = "quorum" if self.is_replicated else "classic"
        return tuple(
            replace(self, url=parts._replace(netloc=f"{login}{at}{host}").geturl(), queues=queues)
            for host in hosts
        )

    def parameters(self) -> pika.URLParameters:
        """Return what pika connects with; the URL must name one host.

        Raises:
            EndpointError: The URL cannot be read, or the certificate authority's file.
        """
        if not self.url.startswith(SCHEMES):
            raise EndpointError("it does not begin with amqp:// or amqps://")
        try:
            parameters = pika.URLParameters(self.url)
        except (ValueError, TypeError, LookupError, SyntaxError):
            # Whatever its parsing stumbles over; the text could hold the password.
            raise EndpointError(_FORM) from None
        if self.url.startswith("amqps://") and self.ca_file:
            parameters.ssl_options = pika.SSLOptions(self._tls(), parameters.host)
        return parameters

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise EndpointError(f"AMQP_CA_FILE={self.ca_file}: {error}") from None


def hosts_of(url: str) -> tuple[str, ...]:
    """Return the hosts that a URL names, each with its port if it has one of its own."""
    return tuple(host.strip() for host in urlsplit(url).netloc.rpartition("@")[2].split(","))


def _has_port(host: str) -> bool:
    """Tell whether what follows a host's colon is a port; without one, AMQP's own is meant."""
    try:
        return urlsplit(f"//{host}").port != 0
    except ValueError:
        return False


def with_password(url: str, password: str) -> str:
    """Return a URL with a password put in; one that has its own keeps it."""
    parts = urlsplit(url)
    if parts.password is not None:
        return url
    user = quote(unquote(parts.username or _GUEST), safe="")
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def read_secret(file: str) -> str:
    """Return a file's text without the line end that editors put there.

    Raises:
        OSError: It cannot be read.
        ValueError: It is empty, or no text.
    """
    text = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    if not text:
        raise ValueError("it is empty")
    return text


def reason_of(error: BaseException) -> str:
    """Say what is under pika's wrappers, which put the cause in one of three places."""
    tried = getattr(error, "exceptions", ())
    causes = (*tried[-1:], getattr(error, "exception", None), *error.args[:1])
    inner = next((each for each in causes if isinstance(each, BaseException)), None)
    return (str(error) or type(error).__name__) if inner is None else reason_of(inner)

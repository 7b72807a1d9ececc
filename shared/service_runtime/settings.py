"""Settings of a service, read from its environment; names and units stand in each field."""

import re
import socket
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from service_runtime.amqp.endpoint import Endpoint, QueueKind, read_secret, with_password
from vm_protocol import limits
from vm_protocol.trust import Role, Trust

_NAME: Final = r"^[a-z0-9][a-z0-9-]*$"
_NAME_OR_NONE: Final = r"^([a-z0-9][a-z0-9-]*)?$"
_URLS: Final = ("amqp_url", "monitor_amqp_url")
DEFAULT_URL: Final = "amqp://guest:guest@127.0.0.1:5672/%2F"


class SettingsError(Exception):
    """An environment variable has a value that no service can use."""


def _amqp_url(url: str) -> str:
    """Refuse what pika cannot read."""
    if url:
        for endpoint in Endpoint(url).each():
            endpoint.parameters()
    return url


Url = Annotated[str, AfterValidator(_amqp_url)]


def _worker_id() -> str:
    """Return a name made of this host's, which in a container is the container's own.

    Where names are longer than ours, what tells two of them apart stands at the end.
    """
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower())
    return host[-limits.NAME_CHARACTERS_MAX :].strip("-") or "worker-1"


class Settings(BaseModel):
    """AMQP_URL, LOG_LEVEL, METRICS_HOST, METRICS_PORT; a worker's WORKER_ID, WORKER_CAPACITY.

    AMQP_URL_FILE names a file that holds the URL; AMQP_PASSWORD_FILE one with the password for a
    URL that has none. MONITOR_AMQP_URL, with the same two, is the dead-letter monitor's own
    connection; empty: the manager's. AMQP_CA_FILE signs the broker's certificate under amqps://.
    AMQP_TOPOLOGY=given leaves exchanges and shared queues to the deployment. AMQP_QUEUES says what
    mailboxes and reply queues are: classic, quorum, or auto. MANAGER_USERS, MONITOR_USERS,
    WORKER_USERS and CLIENT_USERS name the broker's users that play each role, separated by commas;
    empty: anybody may. In WORKER_USERS, `user=ID` is the user of one worker and of no other.
    REPLICA tells a manager from others beside it; MANAGER_HEARTBEAT_S is its heartbeat.
    TEARDOWN_GATE is a replay's conductor, on this host. TEARDOWN_CRASH_FILE is for recovery's tests
    (`crash.py`), and TEARDOWN_WRITE_AHEAD=off for their benchmark: nothing is remembered then.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    amqp_url: Url = DEFAULT_URL
    monitor_amqp_url: Url = ""
    amqp_ca_file: str = ""
    amqp_topology: Literal["declare", "given"] = "declare"
    amqp_queues: QueueKind = "auto"
    manager_users: str = ""
    monitor_users: str = ""
    worker_users: str = ""
    client_users: str = ""
    log_level: str = "info"
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    teardown_crash_file: str = ""
    teardown_write_ahead: Literal["on", "off"] = "on"
    teardown_gate: Annotated[str, Field(pattern=r"^(127\.0\.0\.1:\d+)?$")] = ""
    manager_heartbeat_s: Annotated[int, Field(ge=1, le=600)] = limits.MANAGER_HEARTBEAT_S
    replica: Annotated[str, Field(pattern=_NAME_OR_NONE, max_length=limits.NAME_CHARACTERS_MAX)] = (
        ""
    )
    worker_id: Annotated[str, Field(pattern=_NAME, max_length=limits.NAME_CHARACTERS_MAX)] = Field(
        default_factory=_worker_id
    )
    worker_capacity: Annotated[int, Field(ge=1, le=limits.VCPUS_MAX)] = 256

    def endpoint(self, url: str = "") -> Endpoint:
        """Return where a connection of this service goes; `url` is one that has its own."""
        return Endpoint(
            url or self.amqp_url,
            self.amqp_ca_file,
            self.amqp_topology == "given",
            self.amqp_queues,
        )

    def trust(self) -> Trust:
        """Return which users may play which role."""
        named = {role: _names(getattr(self, f"{role}_users")) for role in Role}
        workers = {user: worker for user, worker in named[Role.WORKER].items() if worker}
        return Trust({role: frozenset(users) for role, users in named.items() if users}, workers)


def _names(text: str) -> dict[str, str]:
    """Return users with what stands after their `=`, of a list separated by commas."""
    parts = (name.partition("=") for name in text.split(",") if name.strip())
    return {user.strip(): worker.strip() for user, _, worker in parts}


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings that an environment asks for.

    Raises:
        SettingsError: Names the variable and what is wrong with it.
    """
    values: dict[str, Any] = {
        name: environment[name.upper()]
        for name in Settings.model_fields
        if environment.get(name.upper())
    }
    values |= {name: url for name in _URLS if (url := read_url(environment, name.upper()))}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        # A URL may hold a password.
        shown = "" if field in _URLS else f" (it is {values[field]!r})"
        raise SettingsError(f"{field.upper()}: {first['msg']}{shown}") from None


def read_url(environment: Mapping[str, str], name: str = "AMQP_URL") -> str:
    """Return a URL from its variable, else from the file that NAME_FILE names; empty: neither.

    A URL without a password gets the one in the file that AMQP_PASSWORD_FILE (after the same
    prefix) names.

    Raises:
        SettingsError: A file cannot be read; names the variable, and never what is in the file.
    """
    url = environment.get(name) or _secret(environment, f"{name}_FILE")
    password = _secret(environment, f"{name.removesuffix('URL')}PASSWORD_FILE")
    if not (url and password):
        return url
    try:
        return with_password(url, password)
    except ValueError:
        raise SettingsError(f"{name}: write amqp://user@host:5672/%2F") from None


def _secret(environment: Mapping[str, str], variable: str) -> str:
    file = environment.get(variable)
    if not file:
        return ""
    try:
        return read_secret(file)
    except UnicodeDecodeError:
        raise SettingsError(f"{variable}={file}: it holds no text") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{variable}={file}: {error}") from None

"""Settings of a service, read from its environment; names and units stand in each field."""

from collections.abc import Mapping
from typing import Annotated

import pika
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vm_protocol import limits

_NAME = r"^[a-z0-9][a-z0-9-]*$"


class SettingsError(Exception):
    """An environment variable has a value that no service can use."""


def _amqp_url(url: str) -> str:
    """Refuse what pika cannot read; it raises whatever its parsing stumbles over."""
    if not url.startswith(("amqp://", "amqps://")):
        raise ValueError("it does not begin with amqp://")
    try:
        pika.URLParameters(url)
    except (ValueError, TypeError, LookupError, SyntaxError):
        raise ValueError("write amqp://user:password@host:5672/%2F") from None
    return url


class Settings(BaseModel):
    """AMQP_URL, LOG_LEVEL, METRICS_HOST, METRICS_PORT; a worker's WORKER_ID, WORKER_CAPACITY.

    TEARDOWN_GATE is a replay's conductor, on this host.
    """

    model_config = ConfigDict(frozen=True)

    amqp_url: Annotated[str, AfterValidator(_amqp_url)] = "amqp://guest:guest@127.0.0.1:5672/%2F"
    log_level: str = "info"
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    teardown_gate: Annotated[str, Field(pattern=r"^(127\.0\.0\.1:\d+)?$")] = ""
    worker_id: Annotated[str, Field(pattern=_NAME, max_length=limits.NAME_CHARACTERS_MAX)] = (
        "worker-1"
    )
    worker_capacity: Annotated[int, Field(ge=1, le=limits.VCPUS_MAX)] = 256


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings that an environment asks for.

    Raises:
        SettingsError: Names the variable and what is wrong with it.
    """
    values = {
        name: environment[name.upper()]
        for name in Settings.model_fields
        if environment.get(name.upper())
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        # A URL may hold a password.
        shown = "" if field == "amqp_url" else f" (it is {values[field]!r})"
        raise SettingsError(f"{field.upper()}: {first['msg']}{shown}") from None

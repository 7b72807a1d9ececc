"""Settings of a service, read from its environment; names and units stand in each field."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vm_protocol import limits

_NAME = r"^[a-z0-9][a-z0-9-]*$"


class SettingsError(Exception):
    """An environment variable has a value that no service can use."""


class Settings(BaseModel):
    """AMQP_URL, LOG_LEVEL, METRICS_HOST, METRICS_PORT; a worker's WORKER_ID, WORKER_CAPACITY."""

    model_config = ConfigDict(frozen=True)

    amqp_url: str = "amqp://guest:guest@127.0.0.1:5672/%2F"
    log_level: str = "info"
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
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
        name = str(first["loc"][0]).upper()
        raise SettingsError(f"{name}: {first['msg']} (it is {values[name.lower()]!r})") from None

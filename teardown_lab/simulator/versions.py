"""What differs between versions of RabbitMQ, as data; the rules of all other files are common.

Sources: RabbitMQ's release notes 4.0.1 and 4.3.0, and the pages named at each field.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class BrokerVersion:
    """One line of versions; `since` is the first (major, minor) that follows its rules.

    Attributes:
        name: How documents and tests call it.
        since: The first version.
        delivery_limit_default: Limit of a quorum queue that names none (quorum-queues: poison
            message handling); None is no limit.
        nack_counts: Whether `basic.nack` with requeue counts as a failed delivery, as
            `basic.reject` does (release notes 4.3.0).
        has_acquired_count: Whether returned messages carry `x-acquired-count` (release notes
            4.3.0).
        trusts_client_deaths: Whether an `x-death` header that a client has published is taken for
            the broker's own (release notes 4.0.1).
        has_last_death: Whether dead letters carry `x-last-death-*` (dlx).
    """

    name: str
    since: tuple[int, int]
    delivery_limit_default: int | None
    nack_counts: bool
    has_acquired_count: bool
    trusts_client_deaths: bool
    has_last_death: bool


RABBITMQ_3_10: Final = BrokerVersion(
    name="3.10",
    since=(3, 10),
    delivery_limit_default=None,
    nack_counts=True,
    has_acquired_count=False,
    trusts_client_deaths=True,
    has_last_death=False,
)

RABBITMQ_4_0: Final = BrokerVersion(
    name="4.0-4.2",
    since=(4, 0),
    delivery_limit_default=20,
    nack_counts=True,
    has_acquired_count=False,
    trusts_client_deaths=False,
    has_last_death=True,
)

RABBITMQ_4_3: Final = BrokerVersion(
    name="4.3",
    since=(4, 3),
    delivery_limit_default=20,
    nack_counts=False,
    has_acquired_count=True,
    trusts_client_deaths=False,
    has_last_death=True,
)

VERSIONS: Final = (RABBITMQ_3_10, RABBITMQ_4_0, RABBITMQ_4_3)
"""Oldest first."""

NEWEST: Final = VERSIONS[-1]


def version_of(product: str) -> BrokerVersion:
    """Return the rules of a version such as "4.0.5" or "RabbitMQ 3.10.8".

    Raises:
        ValueError: It is no version, or older than all that are known.
    """
    parts = product.removeprefix("RabbitMQ ").split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        raise ValueError(f"{product!r} is no version of RabbitMQ: write one like 4.3 or 3.10.8")
    known = [each for each in VERSIONS if each.since <= (int(parts[0]), int(parts[1]))]
    if not known:
        raise ValueError(f"{product}: only RabbitMQ {VERSIONS[0].name} and later is known")
    return known[-1]

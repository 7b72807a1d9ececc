"""What differs between versions of RabbitMQ, as data; the rules of all other files are common.

Sources: RabbitMQ's release notes 4.0.1 and 4.3.0, and the pages named at each field.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Ending(Enum):
    """How a delivery ends other than well."""

    RETURNED = "basic.reject with requeue"
    NACKED_BACK = "basic.nack with requeue"
    LOST = "channel or connection lost"
    REJECTED = "basic.reject without requeue"
    NACKED = "basic.nack without requeue"


@dataclass(frozen=True, slots=True)
class BrokerVersion:
    """One line of versions; `since` is the first (major, minor) that follows its rules.

    Attributes:
        name: How documents and tests call it.
        since: The first version.
        delivery_limit_default: Limit of a quorum queue that names none (quorum-queues: poison
            message handling); None is no limit.
        failures: What counts as a failed delivery (release notes 4.3.0: `basic.nack` does not).
        limit_counts_returns: Whether `x-delivery-count` and the limit count every return, failed
            or not (seen in 4.0.5).
        has_acquired_count: Whether there is `x-acquired-count` (release notes 4.3.0).
        classic_counts_failures: Whether classic queues count too, silently (seen in 4.3.6).
        failures_follow: Whether a dead letter keeps the count of its failed deliveries, and with
            it the redelivered flag (seen in 4.0.5 and 4.3.6).
        successor_has_most_room: Whether of the consumers that wait for a single-active queue the
            one with the largest prefetch is next, and only among equals the first (seen in 4.0.5
            and 4.3.6).
        limit_raises_prefetch: Whether a consumer that returns a message beyond the delivery limit
            gets room for two instead of one, for good (seen in 3.10.8).
        overflow_is_reversed: Whether what one event makes a quorum queue drop for its length is
            dead-lettered newest first, and before what else died of it (seen in 3.10.8, 4.0.5).
        trusts_client_deaths: Whether an `x-death` header that a client has published is taken for
            the broker's own (release notes 4.0.1).
        deaths_flip: Whether each death turns the order of the older `x-death` entries around (seen
            in 3.10.8), so that only the first one is in its place.
        has_last_death: Whether dead letters carry `x-last-death-*` (dlx).
        streams_take_rejects: Whether a stream's delivery may be rejected (seen: 3.10.8 closes the
            connection).
    """

    name: str
    since: tuple[int, int]
    delivery_limit_default: int | None
    failures: frozenset[Ending]
    limit_counts_returns: bool
    has_acquired_count: bool
    classic_counts_failures: bool
    failures_follow: bool
    successor_has_most_room: bool
    limit_raises_prefetch: bool
    overflow_is_reversed: bool
    trusts_client_deaths: bool
    deaths_flip: bool
    has_last_death: bool
    streams_take_rejects: bool


RABBITMQ_3_10: Final = BrokerVersion(
    name="3.10",
    since=(3, 10),
    delivery_limit_default=None,
    failures=frozenset({Ending.RETURNED, Ending.NACKED_BACK, Ending.LOST}),
    limit_counts_returns=False,
    has_acquired_count=False,
    classic_counts_failures=False,
    failures_follow=False,
    successor_has_most_room=False,
    limit_raises_prefetch=True,
    overflow_is_reversed=True,
    trusts_client_deaths=True,
    deaths_flip=True,
    has_last_death=False,
    streams_take_rejects=False,
)

RABBITMQ_4_0: Final = BrokerVersion(
    name="4.0-4.2",
    since=(4, 0),
    delivery_limit_default=20,
    failures=frozenset({Ending.LOST, Ending.REJECTED, Ending.NACKED}),
    limit_counts_returns=True,
    has_acquired_count=False,
    classic_counts_failures=False,
    failures_follow=True,
    successor_has_most_room=True,
    limit_raises_prefetch=False,
    overflow_is_reversed=True,
    trusts_client_deaths=False,
    deaths_flip=False,
    has_last_death=True,
    streams_take_rejects=True,
)

RABBITMQ_4_3: Final = BrokerVersion(
    name="4.3",
    since=(4, 3),
    delivery_limit_default=20,
    failures=frozenset({Ending.RETURNED, Ending.LOST, Ending.REJECTED}),
    limit_counts_returns=False,
    has_acquired_count=True,
    classic_counts_failures=True,
    failures_follow=True,
    successor_has_most_room=True,
    limit_raises_prefetch=False,
    overflow_is_reversed=False,
    trusts_client_deaths=False,
    deaths_flip=False,
    has_last_death=True,
    streams_take_rejects=True,
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

"""What is known to be wrong with a version of the broker, and matters here; data."""

import re
from typing import Final

_VERSION: Final = re.compile(r"RabbitMQ (\d+)\.(\d+)\.(\d+)")
Version = tuple[int, int, int]

PROBLEMS: Final[tuple[tuple[Version, Version, str], ...]] = (
    (
        (3, 13, 0),
        (3, 13, 2),
        "it may drop dead letters that come to a queue for the second time, also after a "
        "rejection (rabbitmq-server#11159): then deliveries are unaccounted for, and a run is "
        "inconclusive; 3.13.3 has it mended",
    ),
)
"""From the first to the last version that has it (both have it), and what it does."""


def known_problems(broker: str) -> list[str]:
    """Return what is known of a broker, as it calls itself: "RabbitMQ 3.13.1"."""
    found = _VERSION.match(broker)
    if found is None:
        return []
    version = (int(found[1]), int(found[2]), int(found[3]))
    return [text for first, last, text in PROBLEMS if first <= version <= last]

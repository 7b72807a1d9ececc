"""Dead letters: `x-death`, its neighbours, and the rule against cycles (dlx)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from teardown_lab.simulator.messages import Death, Stored, with_headers
from teardown_lab.simulator.versions import BrokerVersion
from vm_protocol.codec import Packet

REJECTED = "rejected"
EXPIRED = "expired"
MAXLEN = "maxlen"
BY_DELIVERY_LIMIT = "delivery_limit"


def died(message: Stored, queue: str, reason: str, version: BrokerVersion) -> Stored:
    """Return a message after a death in `queue`, with the headers that tell of it.

    `x-death` has one entry for each queue and reason, the newest first; dying again of the same
    raises that entry's count and moves it to the front (dlx: effects on the message).
    """
    now = death = Death(queue, reason, 1, message.exchange, (message.routing_key,))
    others = []
    for former in message.deaths:
        if (former.queue, former.reason) == (queue, reason):
            death = replace(former, count=former.count + 1)
        else:
            others.append(former)
    if version.deaths_flip:
        others.reverse()
    deaths = (death, *others)
    headers: dict[str, Any] = {"x-death": [_entry(each) for each in deaths]}
    if "x-first-death-reason" not in message.packet.headers:
        headers |= _summary("first", now)
    if version.has_last_death:
        headers |= _summary("last", now)
    return replace(message, packet=with_headers(message.packet, headers), deaths=deaths)


def is_cycle(target: str, deaths: tuple[Death, ...]) -> bool:
    """Tell whether a dead letter must not reach `target`: it died there before, and was not
    rejected by anybody since (dlx: automatically dead-lettered messages, cycles).
    """
    for number, death in enumerate(deaths):
        if death.queue == target:
            return all(each.reason != REJECTED for each in deaths[: number + 1])
    return False


def deaths_claimed(packet: Packet) -> tuple[Death, ...]:
    """Return the deaths that a packet's own `x-death` header tells of."""
    claimed = packet.headers.get("x-death")
    entries = claimed if isinstance(claimed, list) else []
    return tuple(_death(entry) for entry in entries if isinstance(entry, Mapping))


def _death(entry: Mapping[str, Any]) -> Death:
    return Death(
        queue=str(entry.get("queue", "")),
        reason=str(entry.get("reason", "")),
        count=int(entry.get("count", 1)),
        exchange=str(entry.get("exchange", "")),
        routing_keys=tuple(entry.get("routing-keys", ())),
    )


def _entry(death: Death) -> dict[str, Any]:
    return {
        "count": death.count,
        "reason": death.reason,
        "queue": death.queue,
        "exchange": death.exchange,
        "routing-keys": list(death.routing_keys),
    }


def _summary(which: str, death: Death) -> dict[str, str]:
    return {
        f"x-{which}-death-reason": death.reason,
        f"x-{which}-death-queue": death.queue,
        f"x-{which}-death-exchange": death.exchange,
    }

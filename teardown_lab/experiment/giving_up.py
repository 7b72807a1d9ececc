"""When a run gives up on a broker that does not answer; time in which it blocks us is not counted.

A memory or disk alarm blocks publishers: nothing moves, and nobody is at fault. The client's timers
stand still meanwhile. A second bound, which does not depend on the broker, must not run out before
them.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from service_runtime.amqp.lost_session import SessionLost

TURN_S: Final = 0.5
"""How often it is looked whether the broker blocks us."""

_ALARM: Final = "a memory or disk alarm: `rabbitmq-diagnostics alarms`"


async def give_up(
    is_blocked: Callable[[], bool], patience_s: float, turn_s: float = TURN_S
) -> SessionLost:
    """Return why a run is given up, once its broker has been silent for too long.

    Args:
        is_blocked: Whether the broker blocks publishers right now.
        patience_s: Seconds without an answer, and as many again in which it blocks us.
        turn_s: Seconds between two looks.
    """
    waited_s = blocked_s = 0.0
    blocked = False
    while waited_s < patience_s and blocked_s < patience_s:
        await asyncio.sleep(turn_s)
        blocked = is_blocked()
        if blocked:
            blocked_s += turn_s
        else:
            waited_s += turn_s
    return SessionLost(_reason(blocked, waited_s + blocked_s, blocked_s))


def _reason(is_blocked: bool, all_s: float, blocked_s: float) -> str:
    if is_blocked:
        return (
            f"the broker blocks publishers ({_ALARM}); gave up after {all_s:.0f} s: free what it "
            "lacks, or raise --timeout"
        )
    if blocked_s > 0:
        return (
            f"the broker does not answer: gave up after {all_s:.0f} s; it blocked publishers for "
            f"{blocked_s:.0f} s of them ({_ALARM}): free what it lacks, or raise --timeout"
        )
    return f"the broker does not answer: gave up after {all_s:.0f} s"

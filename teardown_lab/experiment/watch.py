"""Watches a run on a real broker: when nothing moves any more, asks the broker who is gone.

Silence alone says nothing: a busy machine is silent too. What ends a run early is a loss that the
broker shows, and that it still shows LOST_S later: services that reconnect are away for a moment. A
lost worker is its manager's to give up, and ends a run only if the manager does not. A
broker that is silent itself is given up by `give_up`.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from service_runtime.amqp.lost_session import SessionLost
from teardown_lab.broker.errors import BrokerUnavailable
from teardown_lab.broker.looking import blocks_publishers, look_at
from teardown_lab.experiment.whereabouts import Whereabouts
from vm_protocol import limits

LOOK_S: Final = 1.0
"""How often the watch looks whether the run has moved."""

SILENCE_S: Final = 3.0
"""How long nothing moves before the broker is asked."""

LOST_S: Final = limits.RECONNECT_MS_MAX / 1000 + 2.0
"""How long somebody must be gone: a service that has lost its broker is back by then."""

LEASED_S: Final = limits.LEASE_MS / 1000 + LOST_S
"""The same while there is a manager: it gives a lost worker up, and the teardown goes on. A worker
that is stopped holds what its mailboxes seem to have never got."""


class Watch:
    """The watch of one run; `missing` is what was gone when the broker was asked last."""

    def __init__(self, url: str, whereabouts: Whereabouts) -> None:
        self._url = url
        self._whereabouts = whereabouts
        self.missing: tuple[str, ...] = ()
        self._patience_s = LEASED_S

    async def run(self, on_loss: Callable[[], None]) -> None:
        """Look again and again; call `on_loss` once, when somebody is gone for good."""
        loop = asyncio.get_running_loop()
        progress, moved_s, lost_s = -1, loop.time(), 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = loop.time()
            if self._whereabouts.progress != progress:
                progress, moved_s, self.missing = self._whereabouts.progress, now_s, ()
                continue
            if now_s - moved_s < SILENCE_S:
                continue
            was_missing = self.missing
            self.missing = await self._look()
            if not self.missing or not was_missing:
                lost_s = loop.time()
            elif loop.time() - lost_s >= self._patience_s:
                on_loss()
                return

    async def _look(self) -> tuple[str, ...]:
        """Ask the broker; one that does not answer loses the run its session, and tells so.

        Only the questions go to a thread: records come in on the loop while they wait, and the
        whereabouts must not change while they are read. While the broker blocks publishers nobody
        is gone: what they sent has not left them, so that a mailbox looks as if it were not bound.
        """
        try:
            queues = self._whereabouts.queues()
            seen = await asyncio.to_thread(look_at, self._url, queues)
            missing = self._whereabouts.missing(seen)
            is_alone = self._whereabouts.is_without_manager(seen)
            self._patience_s = LOST_S if is_alone else LEASED_S
            is_blocked = bool(missing) and await asyncio.to_thread(blocks_publishers, self._url)
        except BrokerUnavailable:
            return ()
        return () if is_blocked else missing


TURN_S: Final = 0.5
"""How often it is looked whether the broker blocks us."""

_ALARM: Final = "a memory or disk alarm: `rabbitmq-diagnostics alarms`"


async def give_up(
    is_blocked: Callable[[], bool], patience_s: float, turn_s: float = TURN_S
) -> SessionLost:
    """Return why a run is given up, once its broker has been silent for too long.

    A memory or disk alarm blocks publishers: nothing moves, and nobody is at fault. The client's
    timers stand still meanwhile. This bound, which does not depend on the broker, must not run out
    before them, so time in which the broker blocks us is not counted.

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

"""Holds that let one message overtake another in one queue, which no broker does.

A message that is held leaves its queue and comes at any later time. As long as nothing behind it in
the same queue is delivered before it, that is a slow delivery. Else the queue is not first in,
first out any more, and what such a schedule finds cannot happen on RabbitMQ.
"""

from dataclasses import dataclass

from teardown_lab.explorer.parcels import Parcel
from teardown_lab.explorer.schedule import Turn
from teardown_lab.explorer.stage import Stage


@dataclass(frozen=True, slots=True)
class Overtaking:
    """Keys of two deliveries of one queue: `later` came before `held`."""

    held: str
    later: str
    queue: str

    @property
    def text(self) -> str:
        """Return it as a sentence."""
        return (
            f"no broker does this: {self.later} overtakes {self.held}, which is held, within one "
            f"queue ({self.queue}), and RabbitMQ keeps the order of a queue"
        )


class Holds:
    """Watches the turns of one stage; `broken` is the first overtaking, if there was one."""

    def __init__(self, stage: Stage) -> None:
        self.broken: Overtaking | None = None
        self._stage = stage
        self._held: dict[str, Parcel] = {}

    def before(self, turn: Turn) -> None:
        """Look at a turn that is about to be taken."""
        if turn.act == "hold":
            self._held[turn.key] = self._stage.find(turn.key)
        elif turn.act == "release":
            self._held.pop(turn.key, None)
        elif turn.act in ("deliver", "redeliver") and self._held:
            queue = self._stage.find(turn.key).queue
            for held in self._held.values():
                if held.queue == queue and self.broken is None:
                    self.broken = Overtaking(held.key, turn.key, queue)

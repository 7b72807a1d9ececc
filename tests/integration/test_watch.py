"""The watch of a run asks the broker beside the loop, and reads the whereabouts on it."""

import asyncio
import threading
from collections.abc import Mapping

from teardown_lab.experiment.watch import Watch
from teardown_lab.experiment.whereabouts import Seen, Whereabouts


class Noting(Whereabouts):
    """Notes on which threads it is asked."""

    def __init__(self) -> None:
        super().__init__("vm-a")
        self.asked_on: list[tuple[str, threading.Thread]] = []

    def queues(self) -> tuple[str, ...]:
        self.asked_on.append(("queues", threading.current_thread()))
        return super().queues()

    def missing(self, seen: Mapping[str, Seen | None]) -> tuple[str, ...]:
        self.asked_on.append(("missing", threading.current_thread()))
        return super().missing(seen)


def test_the_whereabouts_do_not_change_while_the_watch_reads_them(amqp_url: str) -> None:
    """Records come in on the loop's thread: read on another, a dictionary changes in between."""
    whereabouts = Noting()

    async def watch() -> None:
        watching = asyncio.create_task(Watch(amqp_url, whereabouts).run(lambda: None))
        while len(whereabouts.asked_on) < 2:
            await asyncio.sleep(0.05)
        watching.cancel()

    asyncio.run(asyncio.wait_for(watch(), 30))
    here = threading.current_thread()
    assert whereabouts.asked_on[:2] == [("queues", here), ("missing", here)]

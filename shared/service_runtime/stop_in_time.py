"""Work that goes on until it is told to stop, and is given up if it does not then end in time."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def until_stopped(
    work: Coroutine[Any, Any, None], stopping: asyncio.Event, grace_s: float
) -> bool:
    """Run `work`, which ends by itself soon after `stopping` is set; tell whether it did.

    Whatever happens, the work has ended afterwards, its `finally` clauses included.
    """
    working = asyncio.create_task(work)
    told = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({working}, timeout=grace_s)
        is_done = working.done()
        if is_done:
            await working
        return is_done
    finally:
        told.cancel()
        working.cancel()
        await asyncio.gather(told, working, return_exceptions=True)

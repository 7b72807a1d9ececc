"""Sizes of the yardstick's messages in bytes: those of ours, so that the broker has as much to do.

Measured on histories of `unload-in-destroy`; ours are JSON.
"""

from typing import Final

COMMAND: Final = 170
"""A DestroyVcpu with its steps."""

ANSWER: Final = 130
"""RootsReleased, UnloadDone, VcpuStepsDone."""


def request(recipient_count: int) -> int:
    """Return the size of a request to that many vCPUs: it lists them."""
    return 80 + 3 * recipient_count

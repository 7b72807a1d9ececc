"""The way of one vCPU's destruction, in the order in which its messages travel.

The yardstick adds the same hops up, so that they can be laid side by side.
"""

from typing import Final

HOPS: Final = (
    "command: quorum queue, to the worker",
    "RootsReleased: classic queue, to the manager",
    "flush, then UnloadDone: to the worker",
    "fence: the worker waits for its mailbox",
    "VcpuStepsDone: classic queue, to the manager",
    "unbind",
)
"""Of ours, the history cannot tell the last from the first of the next vCPU: one step does both."""

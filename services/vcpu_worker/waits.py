"""What a running command waits for, what ends each wait and what is done then: one table, as data.

This file knows no vCPU and does nothing: `commands` looks here and acts, and docs/protocol.md is
drawn from it. An end without a row for a wait leaves that wait as it is: it is a copy of something
that was taken before, or has come too late.
"""

from enum import StrEnum
from typing import Final


class Wait(StrEnum):
    """What a command waits for."""

    UNLOAD = "unload"
    """`unload_mmu` has given the vCPU's roots up: the manager drops their pins and flushes."""
    ZAP = "zap"
    """`zap_all_until_empty` has asked the manager to zap every root without pins."""
    REDELIVERY = "redelivery"
    """Roots were left, so the command was requeued: the broker delivers it again."""
    FENCE = "fence"
    """`free_vcpu` needs the mailbox consumed up to the fence; a timer bounds the wait."""


class End(StrEnum):
    """What can end a wait."""

    UNLOADED = "unloaded"
    """UnloadDone of the step and position that the command stands at."""
    ZAPPED = "zapped"
    """ZapDone of the newest attempt, with no root left."""
    ROOTS_LEFT = "roots-left"
    """ZapDone of the newest attempt, with roots left."""
    REDELIVERED = "redelivered"
    """The same DestroyVcpu once more."""
    FENCE_REACHED = "fence-reached"
    """A request, with which all up to the fence are consumed."""
    FENCE_EXPIRED = "fence-expired"
    """The fence's timer fires."""
    MAILBOX_GONE = "mailbox-gone"
    """The vCPU's mailbox is gone, and the vCPU with it."""


class Then(StrEnum):
    """What is done when a wait ends."""

    NEXT_STEP = "next-step"
    """The step has finished; go on with the next, or answer after the last."""
    SAME_STEP = "same-step"
    """Run the step that waited again; it looks anew at what it needs."""
    REQUEUE = "requeue"
    """Give the command back to the broker, which counts the delivery, and wait for the next."""
    GIVE_UP = "give-up"
    """Answer that the command is stuck, and reject it."""
    REJECT = "reject"
    """Reject the command: there is no vCPU to answer for."""
    NOTHING = "nothing"
    """The broker holds the command; its next delivery finds no vCPU and is rejected."""


WAITS: Final[dict[Wait, dict[End, Then]]] = {
    Wait.UNLOAD: {End.UNLOADED: Then.NEXT_STEP, End.MAILBOX_GONE: Then.REJECT},
    Wait.ZAP: {
        End.ZAPPED: Then.NEXT_STEP,
        End.ROOTS_LEFT: Then.REQUEUE,
        End.MAILBOX_GONE: Then.REJECT,
    },
    Wait.REDELIVERY: {End.REDELIVERED: Then.SAME_STEP, End.MAILBOX_GONE: Then.NOTHING},
    Wait.FENCE: {
        End.FENCE_REACHED: Then.SAME_STEP,
        End.FENCE_EXPIRED: Then.GIVE_UP,
        End.MAILBOX_GONE: Then.REJECT,
    },
}

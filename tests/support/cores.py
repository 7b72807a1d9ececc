"""Stepping a core by hand: inputs, and what came of them without the observations."""

from collections.abc import Hashable, Iterable
from typing import Any, Generic, TypeVar

from vm_protocol import limits
from vm_protocol.effects import (
    CancelTimer,
    Core,
    Effect,
    Input,
    Observed,
    Publish,
    Received,
    SetTimer,
)
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.timers import LEASES

State = TypeVar("State", bound=Hashable)


class Stepper(Generic[State]):
    """A core with its state; holds each step to the promises that every core makes."""

    def __init__(self, core: Core[State]) -> None:
        self.core = core
        self.state = core.initial()

    def step(self, event: Input) -> tuple[Effect, ...]:
        """Give an input; the same one in the same state does the same, and states hash."""
        before = self.state
        after, effects = self.core.step(before, event)
        assert self.core.step(before, event) == (after, effects), "step() is deterministic"
        assert hash(after) == hash(self.core.step(before, event)[0]), "equal states hash alike"
        self.state = after
        return effects

    def take(
        self,
        message: Message,
        queue: str,
        reply_to: str | None = None,
        epoch: int = limits.MANAGER_EPOCH,
    ) -> tuple[Effect, ...]:
        """Give a message; return all that it brings about."""
        return self.step(Received(queue, message, message.identity(), epoch, reply_to))


def acts(effects: Iterable[Effect]) -> list[Effect]:
    """Return the effects without the observations, and without the timers of leases."""
    return [each for each in effects if not isinstance(each, Observed) and not _is_of_lease(each)]


def _is_of_lease(effect: Effect) -> bool:
    is_timer = isinstance(effect, SetTimer | CancelTimer)
    return is_timer and effect.name.partition("/")[0] in LEASES


def said(effects: Iterable[Effect], *events: Event) -> list[dict[str, Any]]:
    """Return what was observed, as dictionaries of the event, vCPU and details."""
    return [
        {"event": str(effect.event), "vcpu": effect.vcpu, **dict(effect.details)}
        for effect in effects
        if isinstance(effect, Observed) and (not events or effect.event in events)
    ]


def sent(effects: Iterable[Effect]) -> list[Message]:
    """Return the messages that were published."""
    return [effect.message for effect in effects if isinstance(effect, Publish)]

"""What went well this time only: visible-while-freed, flush-to-nobody."""

from bisect import bisect_right
from collections.abc import Collection, Iterator
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.findings import Hazard, HazardName
from teardown_lab.checker.happens_before import Moment, before
from vm_protocol.messages import TLB_FLUSH

HOST_LOST: Final = "host-lost"
"""What raised a flush that the loss of a worker brought about."""


def visible_while_freed(facts: Facts, used: Collection[int | None]) -> Iterator[Hazard]:
    """Yield vCPUs that stood freed in the array while a step other than their erase ran.

    A step counts unless causality puts it before the free or after the window, so a step that
    ran concurrently counts. `used` are the vCPUs whose window somebody went through.
    """
    for vcpu in facts.vcpus():
        frees = facts.memory.freed.get(vcpu)
        if vcpu in used or not frees or vcpu not in facts.array.visible:
            continue
        start = frees[0].moment
        ends = [end for end in (facts.array.erased.get(vcpu), facts.array.hidden.get(vcpu)) if end]
        if any(before(end, start) for end in ends):
            continue
        if any(_step_within(steps, vcpu, start, ends) for steps in facts.steps.by_actor.values()):
            yield Hazard(HazardName.VISIBLE_WHILE_FREED, vcpu)


def _step_within(steps: list[Moment], vcpu: int, start: Moment, ends: list[Moment]) -> bool:
    """Return whether one actor began a step between a vCPU's free and its erase."""
    actor = steps[0].actor
    known = start.index if actor == start.actor else start.seen[actor]
    # One actor's steps are in order: skip those that causality puts before the free.
    first = bisect_right(steps, known, key=lambda step: step.index)
    for place in range(first, len(steps)):
        step = steps[place]
        if any(before(end, step) for end in ends):
            return False
        if not _is_own_erase(step, vcpu):
            return True
    return False


def _is_own_erase(step: Moment, vcpu: int) -> bool:
    return step.record.vcpu == vcpu and shapes.text(step.record, "name") == "erase_vcpu"


def flushes_to_nobody(facts: Facts, lost: Collection[Moment]) -> Iterator[Hazard]:
    """Yield TLB flushes that had no recipient although no vCPU missed them."""
    for post in facts.requests.posts:
        flush = shapes.text(post.record, "kind") == TLB_FLUSH
        # The loss of the last host leaves nobody, and none of that is the ordering's doing.
        of_loss = shapes.text(post.record, "by") == HOST_LOST
        nobody = not shapes.numbers(post.record, "recipients") and post not in lost
        if flush and nobody and not of_loss:
            yield Hazard(HazardName.FLUSH_TO_NOBODY, post.record.vcpu)

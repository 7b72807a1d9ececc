"""Why a teardown may have proved nothing about flushes: no unload raised one that reached anybody.

The reason is one of a closed set; the sentence beside it says what this history shows.
"""

from teardown_lab.checker import shapes
from teardown_lab.checker.counts import unload_flushes
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.findings import Vacuity, VacuityReason
from teardown_lab.checker.happens_before import Moment, before
from teardown_lab.checker.invariants_mmu import RootLife
from teardown_lab.checker.places import Places

_ZAP, _UNLOAD = "zap_all_roots", "unload_mmu"


def vacuity(facts: Facts, lives: dict[str, RootLife]) -> Vacuity | None:
    """Return why no unload raised a flush that reached anybody, None when one did."""
    flushes = list(unload_flushes(facts.requests))
    if any(shapes.numbers(post.record, "recipients") for post in flushes):
        return None
    if flushes:
        hidden = " or hidden behind a hole in the array" if facts.array.hidden else ""
        text = f"the flushes of the unloads reached nobody: every vCPU was erased{hidden} by then"
        return Vacuity(VacuityReason.NOBODY_VISIBLE, text=text)
    mmus = {life.mmu for life in lives.values()} or {str(facts.scenario().get("mmu", ""))}
    if mmus == {"tdp"}:
        return Vacuity(
            VacuityReason.TDP, text="no unload raised a flush: a TDP root never causes one"
        )
    unloads = [step.moment for step in facts.steps.by_workers if step.name == _UNLOAD]
    if lives and all(life.invalidated is None for life in lives.values()):
        text = f"no unload raised a flush: {_without_zap(facts, lives, unloads)}"
        return Vacuity(VacuityReason.NO_ZAP, text=text)
    text = f"no unload raised a flush: {_without_root(facts, lives, unloads)}"
    return Vacuity(VacuityReason.NO_ROOT, text=text)


def _without_zap(facts: Facts, lives: dict[str, RootLife], unloads: list[Moment]) -> str:
    """Say why no root was ever made invalid."""
    places, zaps = Places(facts), facts.steps.named(_ZAP)
    if not zaps:
        planned = places.outline.named(_ZAP)
        if not planned:
            return "no zap-all came, so no root was invalid"
        return f"{planned[0].of(None).aside} was never reached, so no root was invalid"
    zap = places.of_started(zaps[0])
    freed = [free.moment for life in lives.values() for free in life.frees]
    if (
        freed
        and len(freed) >= len(lives)
        and all(each.position < zaps[0].position for each in freed)
    ):
        return f"{zap.aside} came when no root was left, so it made none invalid"
    if unloads and all(before(each, zaps[0]) for each in unloads):
        return f"{zap.aside} came after the unloads, so no root was invalid at theirs"
    return f"{zap.aside} found no root that a vCPU still pinned, so it made none invalid"


def _without_root(facts: Facts, lives: dict[str, RootLife], unloads: list[Moment]) -> str:
    """Say why no unload released the last pin of an invalid root."""
    if not unloads:
        planned = Places(facts).outline.named(_UNLOAD)
        if not planned:
            return "the ordering has no `unload_mmu`"
        return f"no {planned[0].of(None).aside} began"
    if not lives:
        return "there was no root to release"
    pinned = sum(1 for life in lives.values() if life.pins)
    if pinned:
        roots = "a root stays" if pinned == 1 else f"{pinned} roots stay"
        return f"none released the last pin of an invalid root, and {roots} pinned"
    return "no vCPU had a root left to release"

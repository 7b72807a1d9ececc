"""One record of a real run is removed, emptied, retyped, contradicted or renumbered.

The instances are generated (support/forging.py); what the verdict must be is written here by hand:

| a run that is | forged in one record | may be judged |
| --- | --- | --- |
| safe | in any way | safe or inconclusive, never violated |
| safe | in what a verdict rests on (NOTED) | inconclusive |
| violated | in any way | violated or inconclusive, never safe |
| either | by the same record once more | as before |

A forgery that makes the file no history at all is refused, with the line that is none.
"""

import os

import pytest
from forged.runs import SAFE, VIOLATED, records_of
from support.forging import REFUSED, Forgery, forgeries, spread
from support.randomness import seeded

from teardown_lab.checker import History, judge

pytestmark = [pytest.mark.spread, pytest.mark.slow]

INSTANCES = 100
"""Forgeries of one run in the normal suite; a judgement takes some 10 ms."""

RECORD, LATER = "", ("removed", "removed, renumbered")
FAR = ("moved to the beginning", "moved to the end")
LOST = ("removed", "nulled")
WRONG = (*LOST, "emptied", "another's", "retyped")
NUMBER = (*LOST, "contradicted", "lowered", "retyped to text")
LIST = (*LOST, "emptied", "shortened", "lengthened", "its items retyped", "retyped")
TRUTH = (*LOST, "contradicted", "retyped")

NOTED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # what the VM is
    ("run.started", "details.scenario.vcpus", NUMBER),
    ("run.started", "details.scenario.mmu", WRONG),
    ("run.started", "details.scenario.async_pf", NUMBER),
    ("run.started", "details.ordering", WRONG),
    ("run.finished", RECORD, LATER),
    ("run.finished", "details.outcome", WRONG),
    ("vm.created", "details.scenario.roots", WRONG),
    ("teardown.started", RECORD, LATER),
    ("teardown.started", "details.ordering.fence", TRUTH),
    ("teardown.started", "details.ordering.steps", LIST),
    ("vm.freed", RECORD, LATER),
    # vCPUs
    ("vcpu.visible", RECORD, (*LATER, "doubled, renumbered")),
    ("vcpu.visible", "vcpu", ("removed", "contradicted", "another's")),
    ("vcpu.created", RECORD, LATER),
    ("vcpu.created", "vcpu", ("removed", "contradicted", "another's")),
    ("vcpu.freed", RECORD, (*LATER, "doubled, renumbered", "moved later", *FAR)),
    ("vcpu.freed", "vcpu", ("removed", "contradicted", "another's")),
    ("vcpu.freed", "message_id", WRONG),
    ("vcpu.freed", "details.generation", ("removed", "nulled", "retyped", "retyped to text")),
    ("vcpu.erased", RECORD, (*LATER, "doubled, renumbered", "moved later", *FAR)),
    ("vcpu.erased", "vcpu", ("removed", "contradicted", "another's")),
    ("guest.entered", RECORD, LATER),
    ("guest.entered", "details.pages", LIST),
    ("async_pf.completed", RECORD, LATER),
    ("async_pf.completed", "details.fault", NUMBER),
    # steps and commands
    ("step.started", RECORD, (*LATER, "doubled, renumbered")),
    ("step.started", "details.name", WRONG),
    ("step.started", "step", WRONG),
    ("step.finished", RECORD, (*LATER, "doubled, renumbered")),
    ("step.finished", "details.name", WRONG),
    ("message.sent DestroyVcpu", RECORD, LATER),
    ("message.sent DestroyVcpu", "details.body.steps", LIST),
    ("message.sent DestroyVcpu", "details.body.fence", TRUTH),
    ("message.sent DestroyVcpu", "details.body.generation", NUMBER),
    ("message.sent UnloadDone", "details.body.generation", NUMBER),
    ("message.sent VcpuStepsDone", RECORD, LATER),
    ("message.sent VcpuStepsDone", "details.body.outcome", WRONG),
    ("message.sent PlaceVcpu", "details.body.async_pf", NUMBER),
    ("message.sent PlaceVcpu", "details.body.in_guest", TRUTH),
    ("message.sent PlacementAnswered", "details.body.accepted", TRUTH),
    ("background.stopped", RECORD, LATER),
    ("vm_state.freed", RECORD, LATER),
    ("vm_state.freed", "details.state", WRONG),
    # requests
    ("message.sent TlbFlush", RECORD, LATER),
    ("message.sent TlbFlush", "details.body", WRONG),
    ("message.sent TlbFlush", "details.body.recipients", LIST),
    ("message.sent TlbFlush", "details.body.generation", NUMBER),
    ("message.sent DropObsoleteRoots", "details.body.root", WRONG),
    ("request.posted", RECORD, (*LATER, "doubled, renumbered")),
    ("request.posted", "details.recipients", LIST),
    ("request.posted", "details.kind", WRONG),
    ("request.posted", "details.by", WRONG),
    ("request.posted", "details.generation", NUMBER),
    ("request.posted", "message_id", WRONG),
    ("request.delivered", RECORD, (*LATER, "doubled, renumbered")),
    ("request.delivered", "details.outcome", WRONG),
    ("request.delivered", "details.kind", WRONG),
    # roots
    ("root.allocated", RECORD, (*LATER, "doubled, renumbered")),
    ("root.allocated", "details.mmu", WRONG),
    ("root.pinned", RECORD, (*LATER, "doubled, renumbered")),
    ("root.pinned", "details.slot", NUMBER),
    ("root.unpinned", RECORD, (*LATER, "doubled, renumbered")),
    ("root.unpinned", "details.root", WRONG),
    ("root.unpinned", "caused_by", WRONG),
    ("root.invalidated", RECORD, (*LATER, "doubled, renumbered")),
    ("root.freed", RECORD, (*LATER, "doubled, renumbered")),
    ("root.freed", "details.by", WRONG),
    ("root.freed", "details.pins", ("removed", "nulled", "retyped")),
    # any record
    ("", RECORD, ("number raised", "number far off")),
    ("", "lamport", ("emptied",)),
)  # fmt: skip


def is_noted(forgery: Forgery) -> bool:
    """Tell whether the table says that a safe run forged so is never safe."""
    kind = forgery.kind
    return any(
        event in ("", kind.event) and field == kind.field and kind.how in hows
        for event, field, hows in NOTED
    )


def wrongly_judged(forged: list[Forgery], allowed: tuple[str, ...]) -> list[str]:
    """Return the forgeries whose verdict is none of those allowed, with the verdict."""
    found = []
    for forgery in forged:
        verdict = forgery.verdict()
        if verdict not in allowed:
            found.append(f"{forgery.kind} (record {forgery.place}): {verdict}")
    return found


def some_of(name: str) -> list[Forgery]:
    chance = seeded(f"forged {name}")
    every = forgeries(records_of(name))
    return chance.sample(every, min(INSTANCES, len(every)))


@pytest.mark.parametrize("name", SAFE)
def test_a_safe_run_is_never_violated_by_one_forged_record(name: str) -> None:
    assert judge(History.of(records_of(name))).verdict == "safe"

    assert wrongly_judged(some_of(name), ("safe", "inconclusive", REFUSED)) == []


@pytest.mark.parametrize("name", VIOLATED)
def test_a_violated_run_is_never_safe_with_one_forged_record(name: str) -> None:
    assert judge(History.of(records_of(name))).verdict == "violated"

    assert wrongly_judged(some_of(name), ("violated", "inconclusive", REFUSED)) == []


@pytest.mark.parametrize("name", SAFE)
def test_what_a_verdict_rests_on_is_never_forged_unnoticed(name: str) -> None:
    chance = seeded(f"noted {name}")
    noted = [each for each in forgeries(records_of(name)) if is_noted(each)]

    assert wrongly_judged(spread(noted, 1, chance)[::2], ("inconclusive", REFUSED)) == []


@pytest.mark.parametrize("name", [*SAFE, *VIOLATED])
def test_a_record_that_stands_twice_in_the_file_changes_nothing(name: str) -> None:
    records = records_of(name)
    before = judge(History.of(records))
    twice = [each for each in forgeries(records) if each.kind.how == "repeated"]

    judged = [each.judgement() for each in seeded(f"twice {name}").sample(twice, 5)]

    assert [each and (each.violations, each.notes) for each in judged] == [
        (before.violations, before.notes)
    ] * 5


@pytest.mark.long
@pytest.mark.parametrize("name", [*SAFE, *VIOLATED])
def test_every_kind_of_forgery_of_every_run_is_judged_as_the_table_says(name: str) -> None:
    """Minutes for each run: `TEARDOWN_TEST_EACH` forgeries of each kind, 2 by default."""
    each = int(os.environ.get("TEARDOWN_TEST_EACH", "2"))
    chosen = spread(forgeries(records_of(name)), each, seeded(f"every {name}"))
    allowed = ("violated" if name in VIOLATED else "safe", "inconclusive", REFUSED)

    wrong = wrongly_judged(chosen, allowed)
    if name in SAFE:
        wrong += wrongly_judged([f for f in chosen if is_noted(f)], ("inconclusive", REFUSED))

    assert wrong == []

"""What may not happen to the VM's own state: never freed, freed twice, used by what still runs.

VM-level state is the irqchip with the MSR filter, and the vendor's; the ticker and the PIT use the
VM itself. Touches by vCPUs are judged in invariants_vm.py. A stuck teardown frees no VM.
"""

from collections.abc import Iterator
from typing import Final

from teardown_lab.checker import explain, shapes
from teardown_lab.checker.facts import Facts, Life
from teardown_lab.checker.findings import Found, Violation
from teardown_lab.checker.happens_before import Moment, before
from vm_protocol.invariants import Invariant

FREED_BY: Final = {"irqchip": "free_irqchip", "vendor": "vendor_vm_destroy"}
"""What every VM has from its creation on, and the step that frees it."""

STOPPED_BY: Final = "stop_background_workers"


def vm_state_lives(facts: Facts) -> Iterator[Found]:
    """Yield leaks and double frees of VM-level state, and background workers that outlive it."""
    for again in facts.vm_state.freed_again:
        text = explain.state_freed_twice(shapes.text(again.record, "state"))
        yield _found(again, Invariant.DOUBLE_FREE, text)
    end = _end(facts.life)
    if end is None:
        return
    for state, step in FREED_BY.items():
        if not _is_done(facts.vm_state.freed.get(state), end) and not facts.steps.named(step):
            yield _found(end, Invariant.LEAK, explain.leaked_state(state), state)
    if not _is_done(facts.vm_state.background_stopped, end) and not facts.steps.named(STOPPED_BY):
        yield _found(end, Invariant.VM_STATE_USED_AFTER_FREE, explain.workers_outlived())


def steps_without_record(facts: Facts) -> Iterator[str]:
    """Yield steps that ran, and of which it is not recorded that they did anything: notes."""
    end = _end(facts.life)
    if end is None:
        return
    done = {step: facts.vm_state.freed.get(state) for state, step in FREED_BY.items()}
    done[STOPPED_BY] = facts.vm_state.background_stopped
    for step, moment in done.items():
        if facts.steps.named(step) and not _is_done(moment, end):
            yield f"{step} ran, but nothing says that it did its work before the VM was freed"


def _end(life: Life) -> Moment | None:
    """Return the VM's free, where a history that tells of steps has one to be judged by."""
    return life.freed if life.teardown_started is not None and not life.stuck else None


def _is_done(moment: Moment | None, end: Moment) -> bool:
    return moment is not None and before(moment, end)


def _found(moment: Moment, invariant: Invariant, text: str, about: str = "") -> Found:
    violation = Violation(invariant, None, moment.record.caused_by, text)
    return Found(moment.position, violation, about)

"""The mutation table: each safeguard is taken away in turn, and the explorer says what breaks.

A mutant is the real core with one rule changed; the checker confirms each finding on the history
of its schedule.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import vcpu_worker.commands
import vcpu_worker.requests
import vm_manager.interpreter
import vm_manager.manager
import vm_manager.unloading
from teardown_lab.explorer import breadth_first
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.schedule import Schedule
from teardown_lab.explorer.strategy import Bounds
from teardown_lab.explorer.verdict import Verdict, conclude
from vcpu_worker.steps import Stepped
from vm_manager.catalogue import catalogue_entry
from vm_protocol import messages
from vm_protocol.effects import Ack, Publish, Reject, Unbind
from vm_protocol.scenario import Scenario

Patch = Callable[[pytest.MonkeyPatch], None]


def no_change(_patch: pytest.MonkeyPatch) -> None:
    """The control: nothing is taken away."""


def tombstone_acknowledges(patch: pytest.MonkeyPatch) -> None:
    """A freed vCPU takes requests as if it lived."""
    real = vcpu_worker.requests.take

    def take(vcpu: Any, event: Any, request: Any, queues: Any) -> Stepped:
        stepped = real(vcpu, event, request, queues)
        effects = tuple(
            Ack(each.queue, each.message_id) if isinstance(each, Reject) else each
            for each in stepped.effects
        )
        return Stepped(stepped.vcpu, effects)

    patch.setattr(vcpu_worker.requests, "take", take)


def erase_leaves_the_binding(patch: pytest.MonkeyPatch) -> None:
    """An erased vCPU goes on getting requests."""
    real = vm_manager.interpreter.erase_vcpu

    def erase(vm: Any, vcpu: int) -> Any:
        after, effects = real(vm, vcpu)
        return after, tuple(each for each in effects if not isinstance(each, Unbind))

    patch.setattr(vm_manager.interpreter, "erase_vcpu", erase)


def unload_is_answered_without_a_generation(patch: pytest.MonkeyPatch) -> None:
    """The free does not wait for the flush that its own unload raised."""
    real = vm_manager.unloading.unload

    def unload(vm: Any, message: Any, reply_to: str) -> Any:
        after, effects = real(vm, message, reply_to)
        return after, tuple(_without_generation(each) for each in effects)

    patch.setattr(vm_manager.unloading, "unload", unload)


def _without_generation(effect: Any) -> Any:
    if isinstance(effect, Publish) and isinstance(effect.message, messages.UnloadDone):
        return replace(effect, message=effect.message.model_copy(update={"generation": 0}))
    return effect


def command_is_sent_without_a_generation(patch: pytest.MonkeyPatch) -> None:
    """The free does not wait for requests that were posted before its command."""
    real = vm_manager.interpreter._command

    def command(*args: Any) -> Any:
        sent = real(*args)
        return replace(sent, message=sent.message.model_copy(update={"generation": 0}))

    patch.setattr(vm_manager.interpreter, "_command", command)


def repeated_answers_count(patch: pytest.MonkeyPatch) -> None:
    """A command that is finished is run again when it is delivered again."""
    patch.setattr("vcpu_worker.vcpu.Vcpu.outcome_of", lambda _self, _id: None)


TABLE: dict[str, tuple[Patch, str, Budget, str | None]] = {
    "nothing": (no_change, "unload-in-destroy", Budget(ticks=1), None),
    "tombstone": (
        tombstone_acknowledges,
        "unload-in-destroy-wipe-last",
        Budget(),
        "use-after-free",
    ),
    "unbind at erase": (
        erase_leaves_the_binding,
        "unload-in-destroy",
        Budget(),
        "use-after-free",
    ),
    "generation of UnloadDone": (
        unload_is_answered_without_a_generation,
        "unload-in-destroy",
        Budget(),
        "use-after-free",
    ),
    "generation of a command": (
        command_is_sent_without_a_generation,
        "unload-all-first-erase-each",
        Budget(),
        "use-after-free",
    ),
    "finished commands": (
        repeated_answers_count,
        "unload-in-destroy",
        Budget(duplicate=1),
        "use-after-free",
    ),
}


def explored(ordering: str, faults: Budget) -> Verdict:
    schedule = Schedule(catalogue_entry(ordering).ordering, Scenario(vcpus=2), faults, ())
    bounds = Bounds(reduce=False)
    return conclude(schedule, breadth_first.explore(schedule.model(), bounds, lambda *_: None))


@pytest.mark.parametrize("safeguard", TABLE)
def test_a_safeguard_that_is_taken_away_is_missed(
    safeguard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch, ordering, faults, invariant = TABLE[safeguard]
    patch(monkeypatch)

    verdict = explored(ordering, faults)

    found = {str(each.invariant) for each in verdict.violations}
    steps = len(verdict.counterexample.schedule.path) if verdict.counterexample else 0
    print(f"{safeguard}: {sorted(found) or 'nothing'} in {steps} steps")
    if invariant is None:
        assert verdict.verdict == "safe"
    else:
        assert verdict.verdict == "violated"
        assert invariant in found | {key[0] for key in verdict.explored.paths}

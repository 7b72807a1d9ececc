"""The rows of the mutation table for take-overs (tests/simulation/test_take_over_safeguards.py).

What keeps a take-over harmless stands in the driver as well as in the cores. The driver's part is
taken away where the explorer plays it: in the model, and alike on the stage. The safeguards of the
cores against what comes twice (safeguards.py) are needed by a crash, too: REPEATED names them.
"""

from dataclasses import dataclass
from typing import Final

from support.exploring import schedule
from support.mutants import Mutant
from support.safeguards import PATCH, QUIET, TABLE, TICKING
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.schedule import Schedule
from vm_protocol.scenario import Scenario

CRASH, STALE = Budget(crash=1), Budget(stale=1)
STALE_TICK = Budget(ticks=1, stale=1)
PARALLEL, ZAPS = "fenced-parallel-destroy", "zap-all-per-vcpu"
TDP: Final = {"mmu": "tdp"}

MODEL = "teardown_lab.explorer.crashes:Crashing._crash"
SUPERSEDE = "teardown_lab.explorer.superseding:Superseding.supersede"
ARRIVE = "teardown_lab.explorer.superseding:Superseding.may_arrive"
STAGE = "teardown_lab.explorer.stage:Stage"
WORKER = "vcpu_worker.worker"
REPEAT = "self._repeated(after, step, again)"


@dataclass(frozen=True)
class Row:
    """What is taken away, and an ordering in which that shows as `shown_as` after `steps`.

    `unconfirmed` is why the checker does not confirm it: it cannot tell what a manager forgot from
    records that are missing, nor a wait that never ends from a long one.
    """

    mutants: tuple[Mutant, ...]
    ordering: str
    shown_as: str
    steps: int
    faults: Budget
    unconfirmed: str
    scenario: Scenario = QUIET

    def begin(self) -> Schedule:
        return schedule(self.ordering, self.scenario, self.faults)


TAKE_OVER_TABLE: Final[dict[str, Row]] = {
    "an input is logged before its effects are out": Row(
        (
            Mutant(
                MODEL,
                (
                    ("after[MANAGER] = step.state", "pass"),
                    (f"self.perform(after, {REPEAT}, findings)", "pass"),
                ),
            ),
            Mutant(
                f"{STAGE}._handle",
                (
                    ("plan = ", "before = actor.state; plan = "),
                    ("self._crash(", "actor.state = before; self._crash("),
                ),
            ),
            Mutant(f"{STAGE}._crash", (("self._perform(manager, plan)", "pass"),)),
        ),
        PARALLEL,
        "use-after-free",
        11,
        CRASH,
        "but the history shows no free before it",
    ),
    "effects are performed again": Row(
        (
            Mutant(
                MODEL,
                (
                    (
                        REPEAT,
                        "tuple(each for each in step.operations if each not in step.effects)",
                    ),
                ),
            ),
            Mutant(
                f"{STAGE}._crash",
                (
                    (
                        "self._perform(manager, plan)",
                        "left = [each for each in plan.actions if not is_counted(each)]; "
                        "self._perform(manager, replace(plan, actions=tuple(left)))",
                    ),
                ),
            ),
        ),
        PATCH,
        "stuck",
        2,
        CRASH,
        "had not ended; raise --timeout",
    ),
    "fence: what comes from behind the end is refused": Row(
        (
            Mutant(
                f"{WORKER}:VcpuWorker._received",
                ((" or state.is_stale(event)", ""),),
            ),
        ),
        PATCH,
        "use-after-free",
        8,
        STALE_TICK,
        "but the history shows no free before it",
        TICKING.model_copy(update=TDP),
    ),
    "fence: what comes from before the end is not": Row(
        (
            Mutant(
                f"{WORKER}:WorkerState.is_stale",
                ((" and event.entry > self.ended[event.epoch]", ""),),
            ),
        ),
        PATCH,
        "stuck",
        14,
        STALE,
        "every request had arrived",
        QUIET.model_copy(update={"vcpus": 1}),
    ),
    "fence: a refusal settles nothing that is worked on": Row(
        (
            Mutant(
                f"{WORKER}:VcpuWorker._refuse_stale",
                (("running is not None and running.message_id == event.message_id", "False"),),
            ),
        ),
        ZAPS,
        "stuck",
        10,
        STALE,
        "the run ran out of time",
    ),
}

ASSUMED: Final[dict[str, Row]] = {
    "the first word is the successor's": Row(
        (
            Mutant(ARRIVE, (("return self.steps", "return True or self.steps"),)),
            Mutant(f"{STAGE}._may_arrive", (("if not parcel.entry", "if True"),)),
        ),
        PATCH,
        "use-after-free",
        8,
        STALE_TICK,
        "but the history shows no free before it",
        TICKING.model_copy(update=TDP),
    ),
    "a superseded manager unbinds nothing": Row(
        (
            Mutant(
                SUPERSEDE,
                (
                    (
                        "self.take_over(after)",
                        "self.take_over(after); self.perform("
                        "after, tuple(each for each in step.effects if len(each) == 2), [])",
                    ),
                ),
            ),
            Mutant(
                f"{STAGE}._supersede",
                (
                    (
                        "if isinstance(send, Send):",
                        "if isinstance(send, effects.Unbind): "
                        "self._bindings.pop(send.mailbox.name, None)\n        else:",
                    ),
                ),
            ),
        ),
        PARALLEL,
        "stuck",
        14,
        STALE,
        "gave its fence up",
        QUIET.model_copy(update=TDP),
    ),
}
"""What the model leaves out, as the broker rules it out (superseding.py): it would break this."""

REPEATED: Final = {
    name: TABLE[name].shown_as
    for name in (
        "tombstone: what was consumed",
        "tombstone: at or below",
        "idempotence: a finished command",
        "idempotence: a running command",
        "idempotence: an answer that nobody awaits",
        "idempotence: RootsReleased",
        "idempotence: VcpuStepsDone",
        "idempotence: DestroyVm",
        "idempotence: DestroyVm after the end",
    )
}
"""Safeguards against copies whose loss a crash shows as well, and as what."""

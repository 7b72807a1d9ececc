"""Messages that get lost (`drop`): one that nobody waits for, and why no other is in the list."""

import pytest
from support.exploring import answer, explored, schedule

from teardown_lab.explorer import model as model_module
from teardown_lab.explorer.choice import VANISH, split_choice
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.schedule import Schedule, turns
from teardown_lab.explorer.stage import Stage
from teardown_lab.replay.conductor import ReplayFailed, check_turns
from vm_protocol import messages
from vm_protocol.invariants import Invariant
from vm_protocol.messages import Message
from vm_protocol.scenario import Scenario

pytestmark = pytest.mark.spread

DROP = Budget(drop=1)
NESTED = schedule("unload-in-destroy", Scenario(vcpus=1, ticker=False, nested=(0,)), DROP)
WAITED_FOR: dict[type[Message], str] = {
    messages.DestroyVm: "unload-in-destroy",
    messages.DestroyVcpu: "unload-in-destroy",
    messages.VcpuStepsDone: "unload-in-destroy",
    messages.RootsReleased: "unload-in-destroy",
    messages.UnloadDone: "unload-in-destroy",
    messages.ZapRequested: "unload-all-first",
    messages.ZapDone: "unload-all-first",
    messages.RequestAcked: "unload-in-destroy",
    messages.TlbFlush: "unload-in-destroy",
    messages.ScanIoapic: "unload-in-destroy",
    messages.DropObsoleteRoots: "unload-in-destroy",
}


def lost(begin: Schedule) -> tuple[int, ...]:
    """Return a way to an end on which a message is lost as soon as one can be."""
    model = begin.model()
    state, path = model.initial(), []
    while choices := model.choices(state):
        gone = (each for each in choices if split_choice(each).kind == VANISH)
        path.append(next(gone, choices[0]))
        state, _ = model.apply(state, path[-1])
    return tuple(path)


def test_a_read_of_vm_state_may_get_lost() -> None:
    verdict = answer(NESTED).verdict

    assert (verdict.verdict, verdict.missing) == ("safe", ())


def test_where_nothing_can_get_lost_safety_is_not_claimed() -> None:
    verdict = answer(schedule("unload-in-destroy", 1, DROP)).verdict

    assert (verdict.verdict, verdict.missing) == ("inconclusive", ("drop",))


def test_the_vm_is_freed_without_it_and_the_history_has_a_gap() -> None:
    stage = Stage(NESTED)
    taken = turns(NESTED.model(), lost(NESTED))
    for turn in taken:
        stage.take(turn)
    stage.finish()

    judgement = stage.judgement()

    assert [turn.key for turn in taken if turn.act == "drop"] == ["vm-state-read/0/2.0/2/irqchip"]
    assert (judgement.verdict, judgement.violations) == ("inconclusive", ())
    assert any("was neither acknowledged nor dead-lettered" in each for each in judgement.notes)
    with pytest.raises(ReplayFailed, match="cannot be made to drop vm-state-read"):
        check_turns(taken)


@pytest.mark.parametrize("kind", WAITED_FOR, ids=lambda each: each.__name__)
def test_without_any_other_message_the_teardown_does_not_end(
    kind: type[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "LOSABLE", (kind,))
    scenario = Scenario(vcpus=2, ticker=False, in_guest=(0,))

    found = explored(schedule(WAITED_FOR[kind], scenario, DROP))

    assert {invariant for invariant, _, _ in found.paths} == {Invariant.STUCK}
    assert "drop" in found.witnessed

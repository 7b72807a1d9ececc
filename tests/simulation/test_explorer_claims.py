"""The explorer and the replay claim only what the checker has confirmed and a run has reached."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.exploring import answer, explored, loop, ordering, schedule, shipped

from teardown_lab.cli.explore import explore
from teardown_lab.cli.replay import replay
from teardown_lab.explorer.choice import HOLD, RELEASE, SPAN
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.playing import play
from teardown_lab.explorer.schedule import turns
from teardown_lab.explorer.strategy import CTRL_C, Deadline, Explored
from teardown_lab.explorer.verdict import conclude
from vm_protocol.scenario import Scenario

CASES = Path(__file__).parents[1] / "cases" / "schedules"
UNFENCED = shipped("unload-in-destroy", fence=False)
STUCK_BEFORE_THE_LOOP = ordering(
    "stop_background_workers",
    loop("zap_all_until_empty"),
    loop("free_vcpu", "erase_vcpu", parallel=2),
)


def walked_in_order(begin_name: str, vcpus: int = 1) -> tuple[int, ...]:
    """Return the choices of a run in which the first possible thing always happens."""
    model = schedule(begin_name, vcpus).model()
    state, path = model.initial(), []
    while choices := model.choices(state):
        path.append(choices[0])
        state, _ = model.apply(state, choices[0])
    return tuple(path)


# --- violated only if confirmed ----------------------------------------------------------------


def test_a_finding_that_the_checker_does_not_confirm_is_inconclusive_with_the_reason() -> None:
    begin = schedule("unload-in-destroy", 1)
    seen = {("use-after-free", 0, False): walked_in_order("unload-in-destroy")}

    verdict = conclude(begin, Explored(complete=True, paths=dict(seen)))

    assert (verdict.verdict, verdict.violations, verdict.counterexample) == (
        "inconclusive",
        (),
        None,
    )
    (reason,) = verdict.disagreements
    assert reason.startswith("use-after-free of vCPU 0 after ")
    assert " is not confirmed: " in reason
    assert reason in verdict.as_json(0.0)["notes"]


def test_an_unconfirmed_finding_does_not_hide_a_confirmed_one() -> None:
    begin = schedule("unload-in-destroy-wipe-last")
    found = explored(begin)
    found.paths["double-free", 0, False] = walked_in_order("unload-in-destroy-wipe-last", 2)

    verdict = conclude(begin, found)

    assert verdict.verdict == "violated"
    assert {str(each.invariant) for each in verdict.violations} == {"use-after-free"}
    assert verdict.counterexample is not None
    assert verdict.counterexample.key[0] == "use-after-free"
    assert len(verdict.disagreements) == 1


# --- replay ------------------------------------------------------------------------------------


def test_a_replay_that_reaches_no_violation_says_so_and_is_no_success(tmp_path: Path) -> None:
    safe = replace(schedule("unload-in-destroy", 1), path=walked_in_order("unload-in-destroy"))
    file = tmp_path / "safe.json"
    file.write_text(json.dumps(safe.as_json()))

    ran = CliRunner().invoke(replay, [str(file), "--broker", "simulated"])

    assert ran.exit_code == 3
    assert ran.stdout == "safe, nothing to reach: this schedule ends in no violation\n"
    as_json = CliRunner().invoke(replay, [str(file), "--broker", "simulated", "--json"])
    assert as_json.exit_code == 3
    assert json.loads(as_json.stdout)["replay"]["reached"] is False


def test_a_copy_of_a_read_that_was_taken_before_the_free_is_never_claimed() -> None:
    file = CASES / "copy-of-a-read-taken-before-the-free.json"

    ran = CliRunner().invoke(replay, [str(file), "--broker", "simulated"])

    assert ran.exit_code == 3
    assert "the violation that was found" not in ran.output
    assert "reach" in ran.stdout


def test_a_replay_that_comes_to_its_violation_says_so() -> None:
    found = answer(schedule("unload-in-destroy-wipe-last")).verdict.counterexample
    assert found is not None

    ran = CliRunner().invoke(replay, [found.schedule.token(), "--broker", "simulated"])

    assert ran.exit_code == 1
    assert ran.stdout.endswith("violated, the violation that was found\n")


def test_a_violation_that_shows_only_at_the_end_is_reached_as_well() -> None:
    found = answer(schedule(STUCK_BEFORE_THE_LOOP)).verdict.counterexample
    assert found is not None

    ran = CliRunner().invoke(replay, [found.schedule.token(), "--broker", "simulated"])

    assert (ran.exit_code, "the violation that was found" in ran.stdout) == (1, True)


# --- holds -------------------------------------------------------------------------------------


def test_a_hold_that_breaks_the_order_of_a_queue_says_that_no_broker_does_this() -> None:
    """The read of VM state is overtaken, on the manager's replies, by its command's answer."""
    begin = schedule("unload-in-destroy", Scenario(vcpus=1, nested=(0,)), Budget(hold=1))

    verdict = answer(begin).verdict

    assert verdict.verdict == "violated"
    assert all("no broker does this: " in each.explain for each in verdict.violations)
    assert verdict.counterexample is not None
    assert "overtakes vm-state-read/0/2.0/2/irqchip, which is held, within one queue" in (
        verdict.counterexample.impossible
    )
    token = verdict.counterexample.schedule.token()
    ran = CliRunner().invoke(replay, [token, "--broker", "simulated"])
    assert "no broker does this: " in ran.stdout


def test_a_held_message_that_nothing_behind_it_overtakes_is_only_late() -> None:
    begin = schedule("unload-in-destroy", 1, Budget(hold=1))
    model = begin.model()
    hold, release = (kind * SPAN for kind in (HOLD, RELEASE))
    assert hold in model.choices(model.initial())

    played = play(replace(begin, path=(hold, release)))

    assert [turn.act for turn in turns(model, (hold, release))] == ["hold", "release"]
    assert played.overtaking is None
    assert played.judgement.violations == ()


def test_the_counterexample_is_one_that_a_broker_can_do_where_there_is_one() -> None:
    begin = schedule(UNFENCED, Scenario(vcpus=1, nested=(0,)), Budget(ticks=1, hold=1))

    found = answer(begin).verdict.counterexample

    assert found is not None
    assert found.impossible == ""


# --- words -------------------------------------------------------------------------------------


def test_what_stands_behind_a_stuck_step_is_out_of_reach_and_not_missing() -> None:
    verdict = answer(schedule(STUCK_BEFORE_THE_LOOP)).verdict

    assert verdict.verdict == "violated"
    assert verdict.missing == ()
    assert verdict.notes == (
        "destroys-overlapped cannot be seen: step 3 of the ordering is never reached, as step 2 "
        "always gets stuck",
    )


def test_a_schedule_with_several_deviations_tells_which_message_overtook_which() -> None:
    """Without candidates for a single one, as when the time is over."""
    verdict = conclude(
        schedule("parallel-destroy"), explored(schedule("parallel-destroy")), Deadline(0)
    )

    found = verdict.counterexample
    assert found is not None
    assert found.told.text.startswith("first in, first out, but at step ")
    first = found.told.deviations[0]
    assert f"{first['did']} overtakes " in found.told.text
    assert first["instead_of"] in found.told.text


def test_only_a_race_is_called_one() -> None:
    always = answer(schedule("unload-in-destroy-wipe-last")).verdict.counterexample
    racing = answer(schedule("parallel-destroy")).verdict.counterexample

    assert always is not None
    assert racing is not None
    assert (always.told.racing, always.told.race) == ((), "")
    assert len(racing.told.racing) == 2


# --- hazards -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hazards"),
    [
        ("unload-in-destroy", set()),
        (
            "unload-all-first-wipe-last",
            {("visible-while-freed", 0), ("visible-while-freed", 1)},
        ),
        ("fenced-parallel-destroy", {("flush-to-nobody", 0), ("flush-to-nobody", 1)}),
    ],
)
def test_an_exploration_reports_the_hazards_and_fails_on_them_if_it_is_strict(
    name: str, hazards: set[tuple[str, int]]
) -> None:
    verdict = answer(schedule(name)).verdict

    assert verdict.verdict == "safe"
    assert {(str(each.hazard), each.vcpu) for each in verdict.hazards} == hazards
    for strict, code in ((False, 0), (True, 1 if hazards else 0)):
        flags = ["--strict"] if strict else []
        ran = CliRunner().invoke(explore, [name, "--vcpus", "2", "--json", *flags])
        assert ran.exit_code == code
        assert {(each["hazard"], each["vcpu"]) for each in json.loads(ran.stdout)["hazards"]} == (
            hazards
        )


# --- what was found is kept --------------------------------------------------------------------


def test_when_the_time_is_over_one_finding_at_least_is_confirmed_and_told() -> None:
    begin = schedule("parallel-destroy")
    found = explored(begin)

    verdict = conclude(begin, found, Deadline(0))

    assert verdict.verdict == "violated"
    assert len(verdict.violations) == 1
    assert verdict.counterexample is not None
    assert not verdict.counterexample.is_shortest
    assert verdict.notes == (
        f"{len(found.paths) - 1} findings more were not put to the checker: the time was over",
    )


def test_what_was_found_before_ctrl_c_is_judged_and_told() -> None:
    begin = schedule("parallel-destroy")
    found = explored(begin)
    found.complete, found.stopped_by = False, CTRL_C

    verdict = conclude(begin, found)

    assert verdict.interrupted
    assert verdict.verdict == "violated"
    assert verdict.as_json(0.0)["complete"] is False
    assert verdict.as_json(0.0)["counterexample"]["token"].startswith("td1.")


def test_workers_that_outlive_the_vm_are_no_vcpus_use_of_its_state() -> None:
    """Both break one invariant, and the checker confirms each of them by its own violation."""
    order = ordering("free_irqchip", loop("unload_mmu", "free_vcpu", "erase_vcpu"))
    begin = schedule(order, Scenario(vcpus=1, nested=(0,), ticker=False), Budget())

    found = answer(begin).verdict.violations

    uses = {each.vcpu for each in found if each.invariant == "vm-state-used-after-free"}
    assert uses == {None, 0}

"""The manager crashes or is superseded at any point: nothing else is found than without.

What a crash leaves behind stands in `teardown_lab/explorer/crashes.py`, what a superseded manager
still does in `superseding.py`.
"""

from dataclasses import replace

import pytest
from click.testing import CliRunner
from support.exploring import answer, explored, found_kinds, schedule

from teardown_lab.cli.explore import explore
from teardown_lab.cli.replay import replay
from teardown_lab.explorer.choice import CRASHED, RELEASE, Choice, split_choice
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.follow import follow
from teardown_lab.explorer.keys import timer_key
from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.schedule import Crashed, Schedule, Turn, read_schedule, turns
from teardown_lab.explorer.stage import Stage
from teardown_lab.explorer.steps import MANAGER
from teardown_lab.replay.conductor import ReplayFailed, check_turns
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.message_ids import name_in_vm
from vm_protocol.scenario import Scenario
from vm_protocol.timers import TimerKind
from vm_protocol.topology import Mailbox

pytestmark = pytest.mark.spread

ONE_CRASH = Budget(ticks=1, crash=1)
ONE_STALE = Budget(ticks=1, stale=1)
SHAPES = [
    {},
    {"mmu": "tdp", "nested": (0,), "avic": True},
    {"async_pf": 1},
    {"in_guest": (0, 1)},
]
BEGIN = schedule("unload-in-destroy", 2, Budget(crash=1))
POSTED_AND_SENT = 5
"""Effects of DestroyVm with two shadow roots: a scan, two drops, a flush, a command."""


def queued(model: Model, state: State, queue: int) -> list[str]:
    """Return the names of the messages in a queue, head first."""
    entries = model.contents.value(state[model.first_queue + queue])
    return [name_in_vm(model.steps.letters.identity(letter)) for letter, _, _ in entries]


def crashed_at(begin: Schedule, out: int | None) -> tuple[Model, State]:
    """Return the state after the manager has taken DestroyVm and crashed."""
    model = begin.model()
    number = Choice(0, 0, out).number
    assert number in model.choices(model.initial())
    return model, model.apply(model.initial(), number)[0]


# --- what a crash leaves behind ------------------------------------------------------------------


@pytest.mark.parametrize("out", [0, 1, POSTED_AND_SENT])
def test_what_was_out_is_out_twice_and_the_rest_once(out: int) -> None:
    model, state = crashed_at(BEGIN, out)
    plain, without = crashed_at(BEGIN, None)
    mailbox, commands = model.first_mailbox, 2

    posted, sent = queued(plain, without, mailbox), queued(plain, without, commands)
    assert (len(posted), len(sent)) == (POSTED_AND_SENT - 1, 1)
    assert queued(model, state, mailbox) == [*posted[:out], *posted]
    assert queued(model, state, commands) == sent * (1 + (out == POSTED_AND_SENT))


def test_the_successor_has_the_state_after_the_entry_and_gets_what_was_not_settled() -> None:
    model, state = crashed_at(BEGIN, 0)
    without = model.apply(model.initial(), 0)[0]

    assert state[MANAGER] == without[MANAGER]
    assert state[model.timers_at] == without[model.timers_at]
    assert queued(model, state, 0) == ["destroy-vm"]
    assert model.held_by(state, MANAGER) == ()
    assert not model.may_crash(state)


def test_a_crash_before_anything_is_logged_brings_back_what_was_held() -> None:
    model = BEGIN.model()
    begun = model.apply(model.initial(), 0)[0]
    (crash,) = [each for each in model.choices(begun) if turns(model, (0, each))[1].act == "crash"]

    state = model.apply(begun, crash)[0]

    assert queued(model, state, 0) == ["destroy-vm"]
    assert state[MANAGER] == begun[MANAGER]
    # The choice before it, DestroyVm itself, leaves nothing held to bring back.
    assert turns(model, (0, crash))[1] == Turn("crash", "manager", ("destroy-vm",))


def test_an_input_whose_acknowledgement_was_out_does_not_come_back() -> None:
    model = BEGIN.model()
    state = model.initial()
    while not state[model.first_queue + 1]:  # until a reply waits for the manager
        state = model.apply(state, model.choices(state)[0])[0]
    ways = [each for each in model.choices(state) if split_choice(each).index == 1]

    came_back = [
        len(queued(model, model.apply(state, each)[0], 1)) for each in ways if each >= CRASHED
    ]

    assert came_back == [*[1] * (len(came_back) - 1), 0]


# --- what a superseded manager leaves behind -----------------------------------------------------

SUPERSEDED = schedule("unload-in-destroy", 1, Budget(stale=1))


def test_a_superseded_manager_sends_and_its_successor_has_the_state_before() -> None:
    model = SUPERSEDED.model()
    number = Choice(0, 0, stale=True).number
    assert number in model.choices(model.initial())

    state = model.apply(model.initial(), number)[0]

    assert state[MANAGER] == model.initial()[MANAGER]
    assert queued(model, state, 0) == ["destroy-vm"]
    floating = model.hands.value(state[model.floating_at])
    assert len(floating) == len(model.step_of(model.initial(), 0).effects)
    assert all(model.is_stale(entry) for _, entry in floating)


def test_what_it_sent_arrives_after_the_first_word_of_its_successor_and_is_refused() -> None:
    model = SUPERSEDED.model()
    path = [Choice(0, 0, stale=True).number, 0]
    state, _ = follow(model, tuple(path))[0][-1], None
    assert not [each for each in model.choices(state) if split_choice(each).kind == RELEASE]

    told, findings = model.apply(state, model.first_mailbox)
    stale = [each for each in model.choices(told) if split_choice(each).kind == RELEASE]
    refused, _ = model.apply(told, stale[0])

    assert [turn.act for turn in turns(model, (*path, model.first_mailbox, stale[0]))] == [
        "supersede",
        "deliver",
        "deliver",
        "stale",
    ]
    assert refused[1] == told[1]  # the worker's state
    assert findings == ()
    assert "stale" in model.witnessed


def test_the_stage_supersedes_as_the_model_does() -> None:
    found = answer(schedule("fenced-parallel-destroy", 2, Budget(stale=1)))
    begin = schedule("fenced-parallel-destroy", 2, Budget(stale=1))
    model = begin.model()
    state, path = model.initial(), [Choice(0, 0, stale=True).number]
    state = model.apply(state, path[0])[0]
    while choices := model.choices(state):
        path.append(choices[-1])  # what is stale comes as soon as it can
        state = model.apply(state, path[-1])[0]
    stage = Stage(begin)

    for turn in turns(model, tuple(path)):
        stage.take(turn)

    stage.finish()
    judgement = stage.judgement()
    assert (judgement.violations, judgement.notes) == ((), ())
    reasons = [each.details.get("reason") for each in stage.records]
    assert "stale-epoch" in reasons
    assert found.verdict.verdict == "safe"


def test_the_key_of_a_fence_names_its_vcpu() -> None:
    assert timer_key(TimerKind.FENCE.of(Mailbox("vm-0", 1).name)) == "fence@1"
    assert timer_key(TimerKind.FLUSH.of("vm-0")) == "flush"


# --- what is found -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "faults", "states"),
    [
        ("unload-in-destroy", ONE_CRASH, 1_218),
        ("fenced-parallel-destroy", ONE_CRASH, 27_208),
        ("unload-in-destroy", ONE_STALE, 568),
        ("fenced-parallel-destroy", ONE_STALE, 17_139),
    ],
)
def test_what_is_safe_with_three_vcpus_is_safe_with_a_take_over(
    name: str, faults: Budget, states: int
) -> None:
    found = answer(schedule(name, 3, faults))

    assert (found.verdict.verdict, found.verdict.complete) == ("safe", True)
    assert found.verdict.missing == ()
    assert found.explored.states == states


@pytest.mark.slow
@pytest.mark.parametrize("faults", [ONE_CRASH, ONE_STALE], ids=["crash", "stale"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", catalogue_names())
def test_a_take_over_breaks_nothing_that_is_whole_without(
    name: str, shape: dict[str, object], faults: Budget
) -> None:
    scenario = Scenario.model_validate({"vcpus": 2, **shape})
    plain = explored(schedule(name, scenario))

    found = answer(schedule(name, scenario, faults))

    expected = catalogue_entry(name).expected(scenario)
    assert expected is None or found.verdict.verdict == expected.explore
    assert found_kinds(found.explored) == found_kinds(plain)
    assert found.verdict.disagreements == ()
    assert found.explored.doubts == {}
    assert found.verdict.missing == ()


@pytest.mark.slow
@pytest.mark.parametrize("other", ["duplicate", "redeliver", "crash", "stale"])
def test_a_crash_with_another_fault_is_safe(other: str) -> None:
    faults = replace(ONE_CRASH, **{other: getattr(ONE_CRASH, other) + 1})

    found = answer(schedule("fenced-parallel-destroy", 2, faults))

    assert (found.verdict.verdict, found.explored.doubts) == ("safe", {})


# --- words and replays ---------------------------------------------------------------------------


def test_a_schedule_with_a_crash_says_so_in_words_and_survives_its_token() -> None:
    found = replace(BEGIN, path=(Choice(0, 0, out=1).number,))

    again = read_schedule(found.token())

    assert again.path == found.path
    (turn,) = turns(again.model(), again.path)
    assert turn == Turn("deliver", "destroy-vm", (), Crashed(1, POSTED_AND_SENT, acked=False))
    assert found.as_json()["turns"][0]["crashed"] == {
        "out": 1,
        "effects": POSTED_AND_SENT,
        "acked": False,
    }
    assert turn.crashed is not None
    assert turn.crashed.text == "1 of 5 effects out"


def test_the_stage_crashes_as_the_model_does() -> None:
    found = replace(BEGIN, path=(Choice(0, 0, out=2).number,))
    model, state = crashed_at(BEGIN, 2)
    stage = Stage(found)

    stage.take(turns(model, found.path)[0])

    in_mailbox = [each.key for each in stage.heads() if each.key.endswith("@0")]
    assert in_mailbox == [f"{queued(model, state, model.first_mailbox)[0]}@0"]
    assert "destroy-vm" in {each.key for each in stage.heads()}
    stage.finish()
    assert stage.judgement().violations == ()
    assert stage.judgement().notes == ()


def test_a_crash_cannot_be_forced_on_a_broker_yet_and_says_so() -> None:
    for choice in (Choice(0, 0, out=1).number,):
        with pytest.raises(
            ReplayFailed, match="cannot yet be made to crash or supersede its manager"
        ):
            check_turns(turns(BEGIN.model(), (choice,)))
    with pytest.raises(ReplayFailed, match="`--broker simulated` plays this schedule"):
        check_turns((Turn("crash", "manager"),))

    token = replace(BEGIN, path=(Choice(0, 0, out=1).number,)).token()
    ran = CliRunner().invoke(replay, [token, "--broker", "simulated"])
    assert ran.exit_code == 3
    assert "safe, nothing to reach" in ran.stdout


def test_the_command_takes_crashes() -> None:
    ran = CliRunner().invoke(explore, ["unload-in-destroy", "--vcpus", "2", "--faults", "crash:1"])

    assert ran.exit_code == 0
    assert "unload-in-destroy: SAFE\n  complete: 2 vCPUs, 1 crash, 608 states" in ran.stdout

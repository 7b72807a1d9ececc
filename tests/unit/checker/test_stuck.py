"""When a step cannot end, and when it only was not waited for: forged histories of each kind."""

from pathlib import Path

import pytest

from teardown_lab.checker import load_history
from teardown_lab.checker.verdict import judge

COMMANDS = "worker.w0.commands"
REPLIES = "manager.replies"
DESTROY = "vm-a.1/destroy-vm"
CASES = Path(__file__).parents[2] / "cases" / "slowness"


# --- fences ------------------------------------------------------------------------------------


def fenced(story, *arrived):
    """Give up a fence for which requests 1 and 2 must have come; return the command."""
    command = story.command(0, "unload_mmu", "free_vcpu")
    requests = [story.post([0, 1], by="zap-all"), story.post([0, 1])]
    story.send("manager.1", "UnloadDone", "unload-done/0", vcpu=0, step="", generation=2)
    story.step(0, "free_vcpu", command)
    for number in arrived:
        story.deliver(requests[number - 1], 0)
    story.done(0, command, "stuck")
    story.reject(command, COMMANDS, "fence-not-reached", 0)
    story.say("manager.1", "teardown.stuck", 0, why="fence not reached")
    for number, request in enumerate(requests, 1):
        story.deliver(request, *([1] if number in arrived else [0, 1]))
    return command


@pytest.mark.parametrize(
    ("arrived", "what"),
    [
        ((), "vm-a.1/request/1 had not arrived, nor 1 more"),
        ((1,), "vm-a.1/request/2 had not arrived"),
        ((1, 2), "every request had arrived"),
    ],
)
def test_a_fence_that_ran_out_with_its_requests_on_their_way_is_slow(
    new_story, summary, arrived, what
):
    story = new_story(fence_ms=7).begin()
    fenced(story, *arrived)

    assert summary(story.finish().judge()) == {
        "verdict": "inconclusive",
        "dead_letters": [("rejected", COMMANDS, 0, None)],
        "notes": [
            f"the free of vCPU 0 gave its fence up: {what}. A worker or the broker was slow, or "
            "gone; raise the scenario's fence_ms from 7 to 70"
        ],
    }


def test_a_fence_that_needs_a_request_which_was_not_routed_to_it_is_stuck(new_story, summary):
    story = new_story().begin()
    command = story.command(0, "unload_mmu", "free_vcpu")
    story.erase(0)
    unrouted = story.post([1])
    story.send("manager.1", "UnloadDone", "unload-done/0", vcpu=0, step="", generation=1)
    story.step(0, "free_vcpu", command)
    story.deliver(unrouted, 1)
    story.done(0, command, "stuck")
    story.reject(command, COMMANDS, "fence-not-reached", 0)

    judgement = story.finish().judge()

    assert summary(judgement)["violations"] == [("stuck", 0, command)]
    assert judgement.violations[0].explain == (
        f"`free_vcpu` of vCPU 0 cannot end. kvm_destroy_vm() hangs in kmem_cache_free() of vCPU 0: "
        f"DestroyVcpu {command}: its fence needs {unrouted}, which can never reach vCPU 0."
    )


@pytest.mark.parametrize("reason", ["expired", "maxlen", "not-owned"])
def test_a_fence_whose_request_left_the_mailbox_otherwise_is_not_the_orderings(
    new_story, summary, reason
):
    story = new_story(vcpus=1).begin()
    request = story.post([0])
    command = story.command(0, "free_vcpu")
    if reason == "not-owned":
        story.arrive(request, 0)
        story.reject(request, story.mailbox(0), reason, 0)
    else:
        story.letter(request, story.mailbox(0), reason, 0)
    story.reject(command, COMMANDS, "fence-not-reached", 0)

    assert summary(story.finish().judge())["verdict"] == "inconclusive"


# --- the loop of 2007 --------------------------------------------------------------------------


def test_a_command_given_back_up_to_the_delivery_limit_is_stuck_once(new_story, summary):
    story = new_story().begin()
    command = story.command(0, "zap_all_until_empty")
    for _ in range(3):
        story.step(0, "zap_all_until_empty", command)
        story.reject(command, COMMANDS, "roots-pinned", 0, requeue=True)
    story.letter(command, COMMANDS, "delivery_limit", 0, "stuck")
    story.say("manager.1", "teardown.stuck", 0, why="delivery limit reached")

    judgement = story.finish().judge()

    assert summary(judgement) == {
        "verdict": "violated",
        "violations": [("stuck", 0, command)],
        "dead_letters": [("delivery_limit", COMMANDS, 0, "stuck")],
    }
    assert judgement.violations[0].explain == (
        "`zap_all_until_empty` of vCPU 0 cannot end. kvm_destroy_vm() hangs in free_mmu_pages() of "
        f"vCPU 0: DestroyVcpu {command}: the worker rejected it, as roots are still pinned, up to "
        "the delivery limit."
    )


def test_a_delivery_limit_without_recorded_rejects_breaks_nothing(new_story, summary):
    story = new_story(vcpus=1).begin()
    command = story.free(0)
    story.letter(command, COMMANDS, "delivery_limit", 0, None, "connections-lost")
    story.erase(0)

    assert summary(story.end().judge()) == {
        "verdict": "safe",
        "dead_letters": [("delivery_limit", COMMANDS, 0, None)],
    }


def test_copies_of_a_command_that_reach_the_delivery_limit_are_stuck_once(new_story, summary):
    """A second copy may be given back by a worker that has no mark of the first any more."""
    story = new_story().begin()
    command = story.command(0, "zap_all_until_empty")
    story.step(0, "zap_all_until_empty", command)
    story.reject(command, COMMANDS, "roots-pinned", 0, requeue=True)
    for _ in range(2):
        story.letter(command, COMMANDS, "delivery_limit", 0, "stuck")
        story.say("manager.1", "teardown.stuck", 0, why="delivery limit reached")

    assert summary(story.finish().judge()) == {
        "verdict": "violated",
        "violations": [("stuck", 0, command)],
        "dead_letters": [("delivery_limit", COMMANDS, 0, "stuck")],
    }


def test_a_command_that_lost_connections_ended_twice_proves_nothing(new_story, summary):
    story = new_story(vcpus=1).begin()
    command = story.command(0, "free_vcpu")
    story.say("monitor", "dead_letter.republished", 0, message_id=command, queue=COMMANDS)
    story.letter(command, COMMANDS, "delivery_limit", 0, None, "connections-lost")
    story.say("manager.1", "teardown.stuck", 0, why="delivery limit reached by lost connections")

    assert summary(story.finish().judge()) == {
        "verdict": "inconclusive",
        "dead_letters": [("delivery_limit", COMMANDS, 0, None)],
        "notes": [
            f"1 message was given up: lost connections reached the delivery limit twice: {command}"
        ],
    }


@pytest.mark.parametrize("how", ["under way", "released later", "all released"])
def test_a_spin_whose_roots_others_were_about_to_give_up_is_slow(new_story, summary, how):
    """All at once: whoever unpins last ends the spin of all, if the broker gives it the time."""
    story = new_story().begin()
    command = story.command(0, "zap_all_until_empty", "free_vcpu")
    other = story.command(1, "zap_all_until_empty", "free_vcpu")
    story.unpin("root-0", 0)
    story.free_root("root-0", "zap-until-empty")
    story.reject(command, COMMANDS, "roots-pinned", 0, requeue=True)
    story.letter(command, COMMANDS, "delivery_limit", 0)
    story.say("manager.1", "teardown.stuck", 0, why="delivery limit reached")
    if how != "under way":
        story.unpin("root-1", 1)
    if how == "all released":
        story.free_root("root-1", "zap-until-empty")
        story.done(1, other)

    found = summary(story.finish().judge())
    assert found["verdict"] == "inconclusive"
    assert f"{command} was given back up to the delivery limit of 20" in found["notes"][0]


# --- flushes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_time", "later", "dead"),
    [([], [0, 1], []), ([0], [1], []), ([0], [], []), ([0], [], [1]), ([], [0], [1]),
     ([0, 1], [], [])],
)  # fmt: skip
@pytest.mark.parametrize("ends", ["given up", "timed-out-alive"])
def test_a_flush_is_stuck_only_where_a_vcpu_has_refused_it(
    new_story, summary, in_time, later, dead, ends
):
    """A worker or a broker that is slow, or gone, is no fault of the ordering."""
    story = new_story(in_guest=(0, 1)).begin()
    for vcpu in dead:
        story.free(vcpu)
    flush = story.post([0, 1])
    story.say("manager.1", "flush.waited", caused_by=DESTROY, generation=1, missing=[0, 1])

    def acknowledge(vcpu: int) -> None:
        story.deliver(flush, vcpu)
        acked = story.reply(f"request-acked/1/{vcpu}", "RequestAcked", vcpu, generation=1)
        story.ack(acked, REPLIES, "manager.1")

    for vcpu in in_time:
        acknowledge(vcpu)
    if ends == "given up":
        story.say("manager.1", "teardown.stuck", caused_by=DESTROY, why="no acknowledgement")
    for vcpu in later:
        acknowledge(vcpu)
    for vcpu in dead:
        story.refuse(flush, vcpu)

    found = summary(story.finish("settled" if ends == "given up" else ends).judge())
    assert found["verdict"] == ("violated" if dead else "inconclusive")
    assert (("stuck", None, DESTROY) in found.get("violations", [])) == bool(dead)


def test_a_flush_that_nobody_refused_names_who_was_missing_and_what_to_raise(new_story, summary):
    story = new_story(in_guest=(0, 1), request_ms=30).begin()
    story.post([0, 1])
    story.say("manager.1", "flush.waited", caused_by=DESTROY, generation=1, missing=[0, 1])
    story.say("manager.1", "teardown.stuck", caused_by=DESTROY, why="no acknowledgement")

    assert summary(story.finish().judge())["notes"][0] == (
        "the flush of generation 1 was not acknowledged by vCPU 0 and 1 more, and none of them had "
        "refused it. A worker or the broker was slow, or gone; raise the scenario's request_ms "
        "from 30 to 300"
    )


# --- out of time -------------------------------------------------------------------------------


def test_a_run_out_of_time_in_the_middle_proves_nothing(new_story, summary):
    story = new_story().begin()
    command = story.command(0, "unload_mmu", "free_vcpu")

    assert summary(story.finish("timed-out-alive").judge()) == {
        "verdict": "inconclusive",
        "notes": [
            f"the run ran out of time while DestroyVcpu {command} in k had not ended; raise "
            "--timeout"
        ],
    }


def test_a_run_out_of_time_between_two_steps_proves_nothing(new_story, summary):
    assert summary(new_story().begin().finish("timed-out-alive").judge()) == {
        "verdict": "inconclusive",
        "notes": ["the run ran out of time between two steps of the teardown; raise --timeout"],
    }


def test_a_run_out_of_time_after_the_vms_free_is_inconclusive(new_story, summary):
    story = new_story().begin().destroy_all()

    assert summary(story.end("timed-out-alive").judge()) == {
        "verdict": "inconclusive",
        "notes": [
            "the run ran out of time after the VM was freed, while deliveries were open; raise "
            "--timeout"
        ],
    }


@pytest.mark.parametrize("outcome", ["timed-out-alive", "timed-out"])
def test_a_run_out_of_time_says_what_to_raise_and_to_what(new_story, summary, outcome):
    story = new_story().begin()
    story.say("lab", "run.finished", outcome=outcome, timeout_ms=1500, missing=[])

    silent = "; not all services answered" if outcome == "timed-out" else ""
    assert summary(story.judge())["notes"] == [
        "the run ran out of time (1.5 s) between two steps of the teardown; raise --timeout to 15"
        + silent
    ]


def test_a_run_that_was_given_up_names_who_was_gone(new_story, summary):
    story = new_story().begin()
    gone = ["worker w0, which has vCPU 1, takes no commands", "x" * 1000]
    story.say("lab", "run.finished", outcome="lost", timeout_ms=60_000, missing=gone)

    assert summary(story.judge()) == {
        "verdict": "inconclusive",
        "notes": [
            "the run was given up between two steps of the teardown",
            gone[0],
            "x" * 300,
        ],
    }


def test_a_worker_that_no_longer_knows_its_vcpu_is_named(new_story, summary):
    story = new_story().begin()
    command = story.command(0, "unload_mmu", "free_vcpu")
    story.reject(command, COMMANDS, "not-owned", 0)

    found = summary(story.finish("timed-out-alive").judge())
    assert found["verdict"] == "inconclusive"
    assert found["notes"][1] == (
        "worker.w0 did not know vCPU 0, which it had been given: it was restarted, or its mailbox "
        "was removed"
    )


# --- recorded ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "note"),
    [
        (
            "out-of-time-before-the-teardown",
            "the run ran out of time while the VM was created (0 of 64 vCPUs were placed); raise "
            "--timeout",
        ),
        (
            "fence-ran-out-with-all-on-the-way",
            "the free of vCPU 0 gave its fence up: vm-0.1/request/6 had not arrived, nor 5 more. A "
            "worker or the broker was slow, or gone; raise the scenario's fence_ms from 1 to 10",
        ),
    ],
)
def test_recorded_slowness_is_no_violation(name, note):
    judgement = judge(load_history(CASES / f"{name}.jsonl"))

    assert str(judgement.verdict) == "inconclusive"
    assert judgement.violations == ()
    assert judgement.notes[0] == note

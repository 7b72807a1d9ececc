import pytest

COMMANDS = "worker.w0.commands"
REPLIES = "manager.1.replies"
DESTROY = "vm-a.1/destroy-vm"


def test_what_is_left_at_the_vms_free_is_a_leak_each(new_story, summary):
    story = new_story(vcpus=2, async_pf=2).begin()
    story.say("worker.w0", "async_pf.completed", 0, fault=0, how="cleared")
    story.say("worker.w0", "async_pf.completed", 0, fault=1, how="cleared")
    story.free(0)
    story.erase(0)
    story.unpin("root-0", 0)
    story.free_root("root-0")

    assert summary(story.end(free_roots=False).judge()) == {
        "verdict": "violated",
        "violations": [
            ("leak", 1, DESTROY),
            ("leak", 1, DESTROY),
            ("leak", 1, DESTROY),
            ("leak", 1, DESTROY),
        ],
    }


def test_a_vcpu_whose_free_is_not_certain_to_come_before_the_vms_is_a_leak(new_story, summary):
    story = new_story(vcpus=1).begin()
    command = story.command(0, "free_vcpu")
    story.step(0, "free_vcpu", command)
    story.say("worker.w0", "vcpu.freed", 0, generation=0, caused_by=command)
    story.erase(0)

    assert summary(story.end().judge())["violations"] == [("leak", 0, DESTROY)]


def test_a_fault_that_completes_late_is_no_leak(new_story, summary):
    story = new_story(vcpus=1, async_pf=1).begin()
    late = story.send("worker.w0", "AsyncPfCompleted", "async-pf-completed/0/0", vcpu=0, fault=0)
    story.receive("worker.w0", late, COMMANDS, 0)
    story.say("worker.w0", "async_pf.completed", 0, fault=0, how="late")
    story.ack(late, COMMANDS)
    story.destroy_all()

    assert summary(story.end().judge()) == {"verdict": "safe"}


def test_no_leak_is_judged_when_the_teardown_is_stuck(new_story, summary):
    story = new_story().begin()
    story.say("manager", "teardown.stuck", 0, caused_by="vm-a.1/command-stuck", why="no end")

    assert summary(story.finish().judge()) == {
        "verdict": "violated",
        "violations": [("stuck", 0, "vm-a.1/command-stuck")],
    }


@pytest.mark.parametrize("honest", [True, False])
def test_a_read_of_freed_vm_state_counts_whatever_the_manager_answers(new_story, summary, honest):
    story = new_story(vcpus=1).begin()
    story.say("manager", "vm_state.freed", state="irqchip")
    read = story.reply("vm-state-read/0/2.0/0/irqchip", "VmStateRead", 0, state="irqchip")
    story.say("manager", "vm_state.read", 0, caused_by=read, state="irqchip", freed=honest)
    expected = {"verdict": "violated", "violations": [("vm-state-used-after-free", 0, read)]}
    if honest:
        story.reject(read, REPLIES, "vm-state-freed", 0, "vm-state-used-after-free",
                     actor="manager")  # fmt: skip
        expected["dead_letters"] = [("rejected", REPLIES, 0, "vm-state-used-after-free")]
    else:
        story.ack(read, REPLIES, "manager")
    story.destroy_all()

    assert summary(story.end().judge()) == expected


def test_a_read_of_other_or_living_vm_state_is_fine(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.say("manager", "vm_state.freed", state="vendor")
    read = story.reply("vm-state-read/0/2.0/0/irqchip", "VmStateRead", 0, state="irqchip")
    story.say("manager", "vm_state.read", 0, caused_by=read, state="irqchip", freed=False)
    story.ack(read, REPLIES, "manager")
    story.say("manager", "vm_state.freed", state="irqchip")
    story.receive("manager", read, REPLIES, 0, redelivered=True)
    story.ack(read, REPLIES, "manager")
    story.destroy_all()

    assert summary(story.end().judge()) == {"verdict": "safe"}


def test_a_fence_not_reached_is_stuck_once(new_story, summary):
    story = new_story().begin()
    command = story.command(0, "free_vcpu")
    story.step(0, "free_vcpu", command)
    story.done(0, command, "stuck")
    story.reject(command, COMMANDS, "fence-not-reached", 0, "stuck")
    story.say("manager", "teardown.stuck", 0, why="fence not reached")

    assert summary(story.finish().judge()) == {
        "verdict": "violated",
        "violations": [("stuck", 0, command)],
        "dead_letters": [("rejected", COMMANDS, 0, "stuck")],
    }


def test_a_command_given_back_up_to_the_delivery_limit_is_stuck_once(new_story, summary):
    story = new_story().begin()
    command = story.command(0, "zap_all_until_empty")
    for _ in range(3):
        story.step(0, "zap_all_until_empty", command)
        story.reject(command, COMMANDS, "roots-pinned", 0, requeue=True)
    story.letter(command, COMMANDS, "delivery_limit", 0, "stuck")
    story.say("manager", "teardown.stuck", 0, why="delivery limit reached")

    judgement = story.finish().judge()

    assert summary(judgement) == {
        "verdict": "violated",
        "violations": [("stuck", 0, command)],
        "dead_letters": [("delivery_limit", COMMANDS, 0, "stuck")],
    }
    assert judgement.violations[0].explain == (
        "free_mmu_pages() of vCPU 0 cannot end, so kvm_destroy_vm() hangs: DestroyVcpu "
        f"{command}: the worker rejected it, as roots are still pinned, up to the delivery limit."
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
        story.say("manager", "teardown.stuck", 0, why="delivery limit reached")

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
    story.say("manager", "teardown.stuck", 0, why="delivery limit reached by lost connections")

    assert summary(story.finish().judge()) == {
        "verdict": "inconclusive",
        "dead_letters": [("delivery_limit", COMMANDS, 0, None)],
        "notes": [
            f"1 message was given up: lost connections reached the delivery limit twice: {command}"
        ],
    }


@pytest.mark.parametrize(
    ("in_time", "later", "dead", "is_stuck"),
    [([], [0, 1], [], False), ([0], [1], [], False), ([0], [], [], False),
     ([0], [], [1], True), ([], [0], [1], True), ([0, 1], [], [], True)],
)  # fmt: skip
def test_a_flush_that_no_vcpu_has_refused_is_not_stuck(
    new_story, summary, in_time, later, dead, is_stuck
):
    """A worker or a broker that is slow, or gone, is no fault of the ordering."""
    story = new_story(in_guest=(0, 1)).begin()
    for vcpu in dead:
        story.free(vcpu)
    flush = story.post([0, 1])
    story.say("manager", "flush.waited", generation=1, missing=[0, 1])

    def acknowledge(vcpu: int) -> None:
        story.deliver(flush, vcpu)
        acked = story.reply(f"request-acked/1/{vcpu}", "RequestAcked", vcpu, generation=1)
        story.ack(acked, REPLIES, "manager")

    for vcpu in in_time:
        acknowledge(vcpu)
    story.say("manager", "teardown.stuck", caused_by=DESTROY, why="no acknowledgement")
    for vcpu in later:
        acknowledge(vcpu)
    for vcpu in dead:
        story.refuse(flush, vcpu)

    found = summary(story.finish().judge())
    note = "the teardown gave up a flush that no vCPU had refused: request_ms was too short"
    assert found["verdict"] == ("violated" if is_stuck else "inconclusive")
    assert (("stuck", None, DESTROY) in found.get("violations", [])) == is_stuck
    assert (note in found.get("notes", [])) != is_stuck


def test_a_run_out_of_time_with_all_services_answering_is_stuck(new_story, summary):
    story = new_story().begin()

    assert summary(story.finish("timed-out-alive").judge()) == {
        "verdict": "violated",
        "violations": [("stuck", None, None)],
    }


def test_a_run_out_of_time_after_the_vms_free_is_inconclusive(new_story, summary):
    story = new_story().begin().destroy_all()

    assert summary(story.end("timed-out-alive").judge()) == {
        "verdict": "inconclusive",
        "notes": ["the run ran out of time after the VM was freed, while deliveries were open"],
    }

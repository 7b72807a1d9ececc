import pytest

COMMANDS = "worker.w0.commands"
REPLIES = "manager.replies"
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


def test_no_leak_is_judged_when_the_teardown_was_given_up(new_story, summary):
    story = new_story().begin()
    story.say("manager.1", "teardown.stuck", 0, caused_by="vm-a.1/command-stuck", why="no end")

    assert summary(story.finish().judge()) == {
        "verdict": "inconclusive",
        "notes": ["the manager gave the teardown up, and nothing shows that it cannot end: no end"],
    }


@pytest.mark.parametrize("honest", [True, False])
def test_a_read_of_freed_vm_state_counts_whatever_the_manager_answers(new_story, summary, honest):
    story = new_story(vcpus=1).begin()
    story.say("manager.1", "vm_state.freed", state="irqchip")
    read = story.reply("vm-state-read/0/2.0/0/irqchip", "VmStateRead", 0, state="irqchip")
    story.say("manager.1", "vm_state.read", 0, caused_by=read, state="irqchip", freed=honest)
    expected = {"verdict": "violated", "violations": [("vm-state-used-after-free", 0, read)]}
    if honest:
        story.reject(read, REPLIES, "vm-state-freed", 0, "vm-state-used-after-free",
                     actor="manager.1")  # fmt: skip
        expected["dead_letters"] = [("rejected", REPLIES, 0, "vm-state-used-after-free")]
    else:
        story.ack(read, REPLIES, "manager.1")
    story.destroy_all()

    assert summary(story.end().judge()) == expected


def test_a_read_of_other_or_living_vm_state_is_fine(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.say("manager.1", "vm_state.freed", state="vendor")
    read = story.reply("vm-state-read/0/2.0/0/irqchip", "VmStateRead", 0, state="irqchip")
    story.say("manager.1", "vm_state.read", 0, caused_by=read, state="irqchip", freed=False)
    story.ack(read, REPLIES, "manager.1")
    story.say("manager.1", "vm_state.freed", state="irqchip")
    story.receive("manager.1", read, REPLIES, 0, redelivered=True)
    story.ack(read, REPLIES, "manager.1")
    story.destroy_all()

    assert summary(story.end().judge()) == {"verdict": "safe"}

"""What becomes of VM-level state, and of the workers that use the VM, told by hand."""

import pytest

END = "vm-a.1/destroy-vm"


def complete(story):
    """Tell all that no teardown may leave out, but for the VM's own state."""
    for root in ("root-0", "root-1"):
        story.say("manager.1", "page.freed", root=root)
    return story.destroy_all()


def test_state_that_is_never_freed_is_a_leak_each(new_story, summary):
    story = complete(new_story().begin())
    story.say("manager.1", "background.stopped")

    judgement = story.end(clean=False).judge()

    assert summary(judgement) == {
        "verdict": "violated",
        "violations": [("leak", None, END), ("leak", None, END)],
    }
    assert [each.explain for each in judgement.violations] == [
        "kvm_ioapic_destroy() never ran: kvm_destroy_vm() freed the VM while its irqchip state was "
        "still allocated.",
        "svm_vm_destroy() never ran: kvm_destroy_vm() freed the VM while its vendor state was "
        "still allocated.",
    ]


def test_each_further_free_of_state_is_a_double_free(new_story, summary):
    story = complete(new_story().begin())
    for state in ("irqchip", "irqchip", "irqchip", "vendor"):
        story.say("manager.1", "vm_state.freed", state=state, caused_by=END)

    judgement = story.end().judge()

    assert summary(judgement)["violations"] == [("double-free", None, END)] * 2
    assert judgement.violations[0].explain == (
        "kvm_ioapic_destroy() ran a second time: the manager freed the VM's irqchip state again, "
        "which was gone."
    )


def test_workers_that_nobody_stopped_use_the_vm_itself_once(new_story, summary):
    story = complete(new_story().begin())
    story.free_state()

    judgement = story.end(clean=False).judge()

    assert summary(judgement) == {
        "verdict": "violated",
        "violations": [("vm-state-used-after-free", None, END)],
    }
    assert judgement.violations[0].explain.startswith("kvmclock_sync_fn() and the PIT could still")


@pytest.mark.parametrize("step", ["stop_background_workers", "free_irqchip", "vendor_vm_destroy"])
def test_a_step_that_ran_and_left_no_trace_is_doubted_and_no_accusation(new_story, summary, step):
    story = complete(new_story().begin())
    story.vm_step(step)
    if step != "stop_background_workers":
        story.say("manager.1", "background.stopped")
    for state, freed_by in (("irqchip", "free_irqchip"), ("vendor", "vendor_vm_destroy")):
        if freed_by != step:
            story.say("manager.1", "vm_state.freed", state=state)

    assert summary(story.end(clean=False).judge()) == {
        "verdict": "inconclusive",
        "notes": [f"{step} ran, but nothing says that it did its work before the VM was freed"],
    }


def test_with_records_missing_workers_are_not_said_to_have_outlived_the_vm(new_story, summary):
    story = complete(new_story().begin(whole=True))
    story.free_state()
    story.end(clean=False)
    story.records = [each for each in story.records if each.event != "step.started"]

    found = summary(story.judge())

    assert (found["verdict"], "violations" in found) == ("inconclusive", False)


def test_a_stuck_teardown_leaves_its_vm_to_whom_it_belongs(new_story, summary):
    story = new_story().begin()
    story.say("manager.1", "teardown.stuck", why="told by hand")

    assert "violations" not in summary(story.finish().judge())

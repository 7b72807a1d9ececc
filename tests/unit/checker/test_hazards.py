from teardown_lab.checker import exit_code


def test_freed_vcpus_in_the_array_while_other_steps_run_are_hazards(new_story, summary):
    story = new_story(vcpus=3).begin()
    for vcpu in range(3):
        story.free(vcpu)
    for vcpu in range(3):
        story.erase(vcpu)

    judgement = story.end().judge()

    assert summary(judgement) == {
        "verdict": "safe",
        "hazards": [
            ("visible-while-freed", 0),
            ("visible-while-freed", 1),
            ("visible-while-freed", 2),
        ],
    }
    assert exit_code(judgement) == 0
    assert exit_code(judgement, strict=True) == 1


def test_one_vcpu_freed_and_erased_at_once_is_no_hazard(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.free(0)
    story.erase(0)
    story.vm_step("uninit_mmu")

    assert summary(story.end().judge()) == {"verdict": "safe"}


def test_a_freed_vcpu_that_is_never_erased_is_a_hazard_until_the_vm_ends(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.free(0)
    story.vm_step("uninit_mmu")

    assert summary(story.end().judge()) == {
        "verdict": "safe",
        "hazards": [("visible-while-freed", 0)],
    }


def test_a_vcpu_erased_before_its_free_is_no_hazard(new_story, summary):
    story = new_story().begin()
    story.erase(0)
    story.erase(1)
    story.free(0)
    story.free(1)

    assert summary(story.end().judge()) == {"verdict": "safe"}


def test_a_vcpu_hidden_behind_a_hole_is_not_visible(new_story, summary):
    story = new_story().begin()
    story.free(0)
    story.erase(0)
    story.say("manager.1", "vcpu.hidden", 1, hole=0)
    story.free(1)
    story.vm_step("uninit_mmu")
    story.erase(1)

    assert summary(story.end().judge()) == {"verdict": "safe"}


def test_a_window_that_somebody_used_is_no_mere_hazard(new_story, summary):
    story = new_story().begin()
    story.free(0)
    request = story.post([0, 1], vcpu=1)
    story.refuse(request, 0)
    story.deliver(request, 1)
    story.free(1)
    story.erase(0)
    story.erase(1)

    assert summary(story.end().judge())["hazards"] == [("visible-while-freed", 1)]


def test_a_flush_to_nobody_is_a_hazard_but_other_requests_to_nobody_are_not(new_story, summary):
    story = new_story().begin()
    story.erase(0)
    story.erase(1)
    story.post([], by="unload", vcpu=1)
    story.post([], "scan-ioapic", "pit")
    story.free(0)
    story.free(1)

    judgement = story.end().judge()

    assert summary(judgement) == {"verdict": "safe", "hazards": [("flush-to-nobody", 1)]}
    assert str(judgement.vacuity.why) == "nobody-visible"

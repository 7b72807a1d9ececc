"""stale-tlb, memory-mapped and freed-while-running, told by hand."""


def test_a_page_freed_under_a_vcpu_in_guest_is_a_stale_tlb(new_story, summary):
    story = new_story(vcpus=2, in_guest=[0, 1]).begin()
    flush = story.post([1], by="zap-all")
    story.deliver(flush, 1)
    story.say("worker.w0", "guest.left", 1)
    answer = story.send("worker.w0", "RequestAcked", "request-acked", vcpu=0, generation=1)
    story.receive("manager.1", answer, "manager.replies")
    story.say("manager.1", "page.freed", root="root-0")
    story.say("manager.1", "page.freed", root="root-1")
    story.destroy_all()

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [
            ("lost-request", 0, flush),
            ("stale-tlb", 0, None),
            ("freed-while-running", 0, "vm-a.1/destroy-vcpu/0/1"),
        ],
    }


def test_a_vcpu_in_guest_that_got_the_flush_has_no_stale_tlb(new_story, summary):
    story = new_story(vcpus=1, in_guest=[0]).begin()
    story.deliver(story.post([0], by="zap-all"), 0)
    story.say("worker.w0", "tlb.flushed", 0, pages=["root-0"])
    answer = story.send("worker.w0", "RequestAcked", "request-acked", vcpu=0, generation=1)
    story.receive("manager.1", answer, "manager.replies")
    story.say("manager.1", "page.freed", root="root-0")
    story.destroy_all()

    assert summary(story.end().judge()) == {"verdict": "safe"}


def test_a_flush_that_nobody_waited_for_does_not_make_the_page_safe(new_story, summary):
    story = new_story(vcpus=1, in_guest=[0]).begin()
    flush = story.post([0], by="zap-all")
    story.say("manager.1", "page.freed", root="root-0")
    story.deliver(flush, 0)
    story.say("worker.w0", "guest.left", 0)
    story.destroy_all()

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("stale-tlb", 0, None)],
    }


def test_a_page_that_goes_back_with_the_vm_may_be_translated_until_then(new_story, summary):
    """No zap gave it back, so that its owner gets it as the VM is freed; nobody left the guest."""
    story = new_story(vcpus=1, in_guest=[0]).begin().destroy_all()
    story.say("manager.1", "background.stopped")
    story.free_state()

    assert summary(story.end(clean=False).judge()) == {
        "verdict": "violated",
        "violations": [
            ("freed-while-running", 0, "vm-a.1/destroy-vcpu/0/1"),
            ("memory-mapped", 0, "vm-a.1/destroy-vm"),
            ("stale-tlb", 0, "vm-a.1/destroy-vm"),
        ],
    }


def test_a_root_that_no_zap_unmapped_is_memory_mapped_each(new_story, summary):
    story = new_story(vcpus=2).begin().destroy_all()
    story.say("manager.1", "background.stopped")
    story.free_state()
    story.say("manager.1", "page.freed", root="root-1")

    judgement = story.end(clean=False).judge()

    assert summary(judgement) == {
        "verdict": "violated",
        "violations": [("memory-mapped", 0, "vm-a.1/destroy-vm")],
    }
    assert judgement.violations[0].explain == (
        "exit_mmap() took the guest's memory back while root-0 still mapped a page of it: no "
        "kvm_mmu_zap_all() had unmapped it when kvm_destroy_vm() freed the VM; "
        "kvm_mmu_free_roots() had freed the root without that."
    )


def test_a_root_that_the_2007_zap_freed_maps_nothing(new_story, summary):
    story = new_story(vcpus=1).begin().destroy_all()
    story.say("manager.1", "background.stopped")
    story.free_state()
    story.unpin("root-0", 0)
    story.free_root("root-0", "zap-until-empty")

    assert summary(story.end(free_roots=False, clean=False).judge()) == {"verdict": "safe"}


def test_a_zap_of_which_no_page_is_recorded_is_doubted_and_no_accusation(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.vm_step("zap_all_roots")
    story.say("manager.1", "background.stopped")
    story.free_state()
    story.destroy_all()

    assert summary(story.end(clean=False).judge()) == {
        "verdict": "inconclusive",
        "notes": ["zap_all_roots ran while root-0 was listed, yet its page was not given back"],
    }


def test_a_zap_after_a_roots_free_unmaps_nothing_of_it(new_story, summary):
    story = new_story(vcpus=1, mmu="tdp").begin().destroy_all()
    story.unpin("root-0", 0)
    story.free_root("root-0", "uninit")
    story.vm_step("zap_all_roots")
    story.say("manager.1", "background.stopped")
    story.free_state()

    found = summary(story.end(free_roots=False, clean=False).judge())
    assert found["violations"] == [("memory-mapped", 0, "vm-a.1/destroy-vm")]


def test_a_stuck_teardown_gives_no_memory_back(new_story, summary):
    story = new_story(vcpus=1, in_guest=[0]).begin()
    story.say("manager.1", "teardown.stuck", why="told by hand")

    assert "violations" not in summary(story.finish().judge())


def test_a_vcpu_freed_in_its_guest_is_freed_while_running_once(new_story, summary):
    story = new_story(vcpus=2, in_guest=[0, 1]).begin()
    story.deliver(story.post([0, 1], "scan-ioapic", "pit"), 1)
    story.say("worker.w0", "guest.left", 1)
    story.destroy_all()
    story.say("worker.w0", "guest.left", 0)

    judgement = story.end().judge()

    found = [each for each in judgement.violations if each.invariant == "freed-while-running"]
    assert [(each.vcpu, each.message_id) for each in found] == [(0, "vm-a.1/destroy-vcpu/0/1")]
    assert found[0].explain == (
        "`free_vcpu` of vCPU 0 freed it in its guest: nothing had made it leave. "
        "kvm_vcpu_destroy() freed vCPU 0 while it was IN_GUEST_MODE, and its processor runs on in "
        "what is freed: no request had made it leave the guest before vm-a.1/destroy-vcpu/0/1."
    )


def test_with_records_missing_nothing_is_concluded_about_memory(new_story, summary):
    story = new_story(vcpus=1, in_guest=[0]).begin(whole=True)
    story.destroy_all()
    story.say("manager.1", "background.stopped")
    story.free_state()
    story.end(clean=False)
    story.records = [each for each in story.records if each.event != "step.started"]

    found = summary(story.judge())

    assert found["verdict"] == "inconclusive"
    assert "violations" not in found
    assert {note.partition(" ")[0] for note in found["notes"]} >= {
        "freed-while-running",
        "memory-mapped",
        "stale-tlb",
    }

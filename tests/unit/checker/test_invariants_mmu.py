def test_a_root_freed_under_its_holders_counts_once(new_story, summary):
    story = new_story().begin().destroy_all()
    story.allocate("root-all", 0, 1)
    story.free_root("root-all", "uninit", ("0.0.0", "1.0.0"))

    judgement = story.end().judge()

    assert summary(judgement) == {
        "verdict": "violated",
        "violations": [("pinned-root-freed", None, None)],
    }
    assert judgement.violations[0].explain == (
        "kvm_mmu_uninit_vm() freed root-all while it was still a root of a vCPU: the manager freed "
        "it with pins 0.0.0, 1.0.0 (vCPU.context.slot) that no unload had released."
    )


def test_pins_are_counted_by_the_checker(new_story, summary):
    story = new_story(vcpus=1).begin().destroy_all()
    story.free_root("root-0", "uninit", pins=())
    story.end(free_roots=False)

    assert summary(story.judge()) == {
        "verdict": "violated",
        "violations": [("pinned-root-freed", 0, None)],
        "notes": ["the manager's pins of root-0 at its free are not those that it recorded"],
    }


def test_a_pin_that_its_vcpu_did_not_give_up_is_still_held(new_story, summary):
    """The manager says that vCPU 1's pin is gone, and was asked by vCPU 0."""
    story = new_story().begin().destroy_all()
    story.allocate("root-all", 0, 1)
    released = story.reply("roots-released/0", "RootsReleased", 0)
    story.say("manager", "root.unpinned", 0, root="root-all", context=0, slot=0, caused_by=released)
    story.say("manager", "root.unpinned", 1, root="root-all", context=0, slot=0, caused_by=released)
    story.free_root("root-all", "unload", ())

    found = summary(story.end().judge())
    assert found["violations"] == [("pinned-root-freed", 1, None)]


def test_a_root_freed_twice(new_story, summary):
    story = new_story(vcpus=1).begin().destroy_all()
    story.unpin("root-0", 0)
    story.free_root("root-0", "unload")
    story.free_root("root-0", "zap-all")
    story.free_root("root-0", "uninit")

    assert summary(story.end(free_roots=False).judge()) == {
        "verdict": "violated",
        "violations": [("root-freed-twice", 0, None)],
    }


def test_a_page_freed_under_a_vcpu_in_guest_is_a_stale_tlb(new_story, summary):
    story = new_story(vcpus=2, in_guest=[0, 1]).begin()
    flush = story.post([1], by="zap-all")
    story.deliver(flush, 1)
    story.say("worker.w0", "guest.left", 1)
    answer = story.send("worker.w0", "RequestAcked", "request-acked")
    story.receive("manager", answer, "manager.1.replies")
    story.say("manager", "page.freed", root="root-0")
    story.say("manager", "page.freed", root="root-1")
    story.destroy_all()

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("lost-request", 0, flush), ("stale-tlb", 0, None)],
    }


def test_a_vcpu_in_guest_that_got_the_flush_has_no_stale_tlb(new_story, summary):
    story = new_story(vcpus=1, in_guest=[0]).begin()
    story.deliver(story.post([0], by="zap-all"), 0)
    story.say("worker.w0", "tlb.flushed", 0, pages=["root-0"])
    answer = story.send("worker.w0", "RequestAcked", "request-acked")
    story.receive("manager", answer, "manager.1.replies")
    story.say("manager", "page.freed", root="root-0")
    story.destroy_all()

    assert summary(story.end().judge()) == {"verdict": "safe"}


def test_a_flush_that_nobody_waited_for_does_not_make_the_page_safe(new_story, summary):
    story = new_story(vcpus=1, in_guest=[0]).begin()
    flush = story.post([0], by="zap-all")
    story.say("manager", "page.freed", root="root-0")
    story.deliver(flush, 0)
    story.say("worker.w0", "guest.left", 0)
    story.destroy_all()

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("stale-tlb", 0, None)],
    }

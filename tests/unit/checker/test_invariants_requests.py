import pytest

REQUEST = "vm-a.1/request/1"
BOX = "vcpu.vm-a.0.1"


def test_a_request_that_misses_a_live_vcpu_is_lost_for_it(new_story, summary):
    story = new_story(vcpus=3).begin()
    story.free(0)
    story.erase(0)
    story.say("manager.1", "vcpu.hidden", 1, hole=0)
    story.say("manager.1", "vcpu.hidden", 2, hole=0)
    released = story.reply("roots-released/1", "RootsReleased", 1)
    story.post([], vcpu=1, caused_by=released)
    for vcpu in (1, 2):
        story.free(vcpu)
        story.erase(vcpu)

    judgement = story.end().judge()

    assert summary(judgement) == {
        "verdict": "violated",
        "violations": [("lost-request", 1, released), ("lost-request", 2, released)],
    }
    assert judgement.violations[1].explain == (
        "`erase_vcpu` of vCPU 0 left a hole that hides vCPU 2: `unload_mmu` of vCPU 1 posted a "
        "TLB flush that misses it. "
        "kvm_flush_remote_tlbs(), raised by kvm_mmu_unload() of vCPU 1, missed vCPU 2: the "
        "tlb-flush was not published: the hole at 0 in the array hides vCPU 2, which is neither "
        "freed nor erased."
    )


def test_a_request_to_some_is_lost_for_the_others_under_its_own_id(new_story, summary):
    story = new_story(vcpus=2).begin()
    request = story.post([1], "clock-update", "ticker")
    story.deliver(request, 1)
    story.destroy_all()

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("lost-request", 0, REQUEST)],
    }


def test_freed_is_judged_by_happens_before(new_story, summary):
    """The worker freed the vCPU, but nothing of it had reached the manager when it posted."""
    story = new_story(vcpus=1).begin()
    command = story.command(0, "free_vcpu")
    story.say("worker.w0", "vcpu.freed", 0, caused_by=command, generation=0)
    story.post([], "scan-ioapic", "pit")
    story.done(0, command)
    story.erase(0)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("lost-request", 0, None)],
    }


@pytest.mark.parametrize("gone", ["free", "erase"])
def test_no_request_is_lost_for_the_freed_or_the_erased(new_story, summary, gone):
    story = new_story(vcpus=1).begin()
    if gone == "erase":
        story.erase(0)
    story.free(0)
    story.post([], "scan-ioapic", "pit")
    if gone == "free":
        story.erase(0)

    assert summary(story.end().judge()) == {"verdict": "safe"}


@pytest.mark.parametrize("reason", ["expired", "maxlen"])
def test_a_request_that_may_have_left_after_the_free_is_doubted(new_story, summary, reason):
    story = new_story(vcpus=1).begin()
    request = story.post([0], by="zap-all")
    story.letter(request, BOX, reason, 0)
    story.destroy_all()
    later = story.post([], by="flush-tlbs")
    assert later == ""

    judgement = story.end().judge()

    assert summary(judgement) == {
        "verdict": "inconclusive",
        "hazards": [("flush-to-nobody", None)],
        "dead_letters": [(reason, BOX, 0, None)],
        "notes": [f"{REQUEST} left the mailbox of vCPU 0 ({reason}), freed or not"],
    }


@pytest.mark.parametrize("reason", ["expired", "maxlen"])
@pytest.mark.parametrize("ends", ["stuck", "freed"])
def test_a_request_that_a_live_vcpu_left_unread_accuses_nobody(new_story, summary, reason, ends):
    """It was routed to its vCPU: the worker was slow, or gone, and that is no order of steps."""
    story = new_story(vcpus=1).begin()
    unread = story.post([0], by="zap-all")
    story.letter(unread, BOX, reason, 0)
    if ends == "freed":
        story.deliver(story.post([0], "scan-ioapic", "pit"), 0)
        story.destroy_all().end()
    else:
        story.say("manager.1", "teardown.stuck", 0, why="fence not reached")
        story.finish()

    judgement = story.judge()

    notes = [
        f"{unread} left the mailbox of vCPU 0 unread ({reason}) while the vCPU lived: its worker "
        "was slow, or gone; no ordering does this"
    ]
    if ends == "stuck":
        gave_up = "the manager gave the teardown up, and nothing shows that it cannot end: "
        notes.insert(0, gave_up + "fence not reached")
    assert summary(judgement) == {
        "verdict": "inconclusive",
        "dead_letters": [(reason, BOX, 0, None)],
        "notes": notes,
    }
    assert judgement.counts.unaccounted == 0


def test_a_request_posted_to_a_freed_vcpu_that_expires_is_a_use_after_free(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.free(0)
    request = story.post([0], by="flush-tlbs")
    story.letter(request, BOX, "expired", 0, "use-after-free")
    story.erase(0)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("use-after-free", 0, request)],
        "dead_letters": [("expired", BOX, 0, "use-after-free")],
    }

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
    story.say(
        "manager.1", "root.unpinned", 0, root="root-all", context=0, slot=0, caused_by=released
    )
    story.say(
        "manager.1", "root.unpinned", 1, root="root-all", context=0, slot=0, caused_by=released
    )
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

"""Hand-written histories of managers that took over: who was in office, and what counts."""

from dataclasses import replace

import pytest

from teardown_lab.checker import History, Takeover, judge
from teardown_lab.checker.gathering import gather
from teardown_lab.checker.happens_before import before, order
from teardown_lab.report.text import describe

BOX = "vcpu.vm-a.0.1"
STALE = "manager.1"


def taken_over(new_story, **said):
    """Return a story in which the manager changes between the destructions of two vCPUs."""
    story = new_story().begin()
    story.free(0)
    story.take_over(**said)
    story.erase(0)
    story.free(1)
    story.erase(1)
    return story


def test_a_teardown_that_another_manager_ended_is_judged_like_any_other(new_story, summary):
    story = taken_over(new_story, entry=12, repeated=3).end()

    judgement = story.judge()

    assert summary(judgement) == {"verdict": "safe"}
    assert judgement.takeovers == (Takeover("manager.2", "manager.1", 12, 3),)
    assert judgement.to_json("h")["takeovers"] == 1
    undisturbed = new_story().begin().destroy_all().end().judge()
    assert replace(judgement, takeovers=()) == undisturbed
    assert undisturbed.to_json("h")["takeovers"] == 0


def test_what_a_manager_does_comes_after_all_that_counts_of_the_one_before(new_story):
    story = taken_over(new_story)
    story.take_over()
    story.end()
    known = {(each.record.actor, each.record.seq): each for each in order(story.records).moments}
    last = max(seq for actor, seq in known if actor == "manager.1")

    assert before(known["manager.1", last], known["manager.2", 0])
    assert before(known["manager.1", 0], known["manager.3", 1])
    assert not before(known["manager.2", 0], known["manager.1", last])


def test_an_erase_by_one_manager_is_seen_by_a_request_of_the_next(new_story, summary):
    story = new_story().begin()
    story.erase(0)
    story.take_over()
    request = story.post([0, 1], "scan-ioapic", "pit")
    story.deliver(request, 0, 1)
    story.free(0)
    story.free(1)
    story.erase(1)

    assert summary(story.end().judge())["violations"] == [("visible-after-erase", 0, request)]


def test_what_a_manager_says_out_of_office_is_no_evidence_and_counted(new_story, summary):
    story = taken_over(new_story)
    office, story.manager = story.manager, STALE
    story.say(STALE, "vcpu.erased", 1)
    story.say(STALE, "root.freed", root="root-0", by="uninit", pins=["0.0.0"])
    story.send(STALE, "DestroyVcpu", "destroy-vcpu/9/9", vcpu=1, steps=["free_vcpu"], generation=0)
    story.say(STALE, "vm.freed")
    story.manager = office
    story.end()
    story.records.append(story.records[-1])  # written again, it counts once

    judgement = story.judge()

    assert summary(judgement) == {"verdict": "safe"}
    assert judgement.stale_records == 4
    assert judgement.counts.commands == 2


def test_stale_records_written_twice_count_once(new_story):
    story = taken_over(new_story)
    stale = story.say(STALE, "vm.freed")
    story.end()

    assert judge(History.of([stale, *story.records])).stale_records == 1


def test_records_that_a_successor_wrote_again_count_once_wherever_they_stand(new_story, summary):
    story = taken_over(new_story)
    own = [record for record in story.records if record.actor == "manager.1"]
    story.end()

    judgement = judge(History.of([*own[3:6], *story.records, *own[-5:]]))

    assert judgement == story.judge()
    assert summary(judgement) == {"verdict": "safe"}


def stale_request(story, to):
    """Let the manager out of office and the one in office send a request of one id."""
    story.manager, office = STALE, story.manager
    request = story.post(to, "scan-ioapic", "pit")
    story.manager = office
    for vcpu in to:
        story.arrive(request, vcpu)
        story.reject(request, story.mailbox(vcpu), "stale-epoch", vcpu)
    return request


def test_a_stale_message_is_a_dead_letter_without_invariant(new_story, summary):
    story = new_story().begin()
    story.free(0)
    story.take_over()
    stale_request(story, [0, 1])
    story.erase(0)
    story.free(1)
    story.erase(1)

    judgement = story.end().judge()

    assert summary(judgement) == {
        "verdict": "safe",
        "dead_letters": [
            ("rejected", BOX, 0, None),
            ("rejected", "vcpu.vm-a.1.1", 1, None),
        ],
    }
    assert (judgement.counts.dead_letters, judgement.counts.unaccounted) == (2, 0)


def test_a_stale_message_does_not_settle_its_successor_s_of_the_same_id(new_story, summary):
    story = new_story().begin()
    story.take_over()
    request = stale_request(story, [0, 1])
    story._generation -= 1
    assert story.post([0, 1], "scan-ioapic", "pit") == request
    story.deliver(request, 0)
    story.destroy_all()

    judgement = story.end().judge()

    assert judgement.counts.dead_letters == 2
    assert summary(judgement)["notes"] == [
        f"1 request was neither acknowledged nor dead-lettered: {request} to vCPU 1"
    ]


def test_a_stale_letter_hides_no_use_after_free_of_the_same_id(new_story, summary):
    story = new_story().begin()
    story.free(0)
    story.take_over()
    request = stale_request(story, [0])
    story._generation -= 1
    story.post([0, 1], "scan-ioapic", "pit")
    story.refuse(request, 0)
    story.deliver(request, 1)
    story.erase(0)
    story.free(1)
    story.erase(1)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("use-after-free", 0, request)],
        "dead_letters": [
            ("rejected", BOX, 0, None),
            ("rejected", BOX, 0, "use-after-free"),
        ],
    }


def test_a_record_that_a_predecessor_must_have_written_is_missed(new_story):
    story = new_story().begin(whole=True)
    story.free(0)
    story.take_over()
    story.say(STALE, "vm.freed")
    story.destroy_all().end()
    whole = story.judge()
    last = max(each.seq for each in story.records if each.actor == STALE) - 1
    lost = [each for each in story.records if (each.actor, each.seq) != (STALE, last)]
    gap = "1 record of manager.1 missing from the history"

    assert not [note for note in whole.notes if "missing from" in note]
    assert gap in judge(History.of(lost)).notes


def test_numbers_begin_anew_with_each_epoch(new_story):
    story = taken_over(new_story).end()
    lost = [each for each in story.records if (each.actor, each.seq) != ("manager.2", 1)]
    records = [
        each.model_copy(update={"details": each.details | {"whole": True}})
        if each.event == "run.started"
        else each
        for each in lost
    ]

    assert "1 record of manager.2 missing from the history" in judge(History.of(records)).notes


@pytest.mark.parametrize(
    ("told", "note"),
    [
        ([("manager.2", 2, 9)], "manager.2 says that it took over from manager.2"),
        ([("manager.2", 5, 9)], "manager.2 says that it took over from manager.5"),
        ([("lab", 1, 9)], "lab says that it took over from manager.1"),
        (
            [("manager.2", 1, 900), ("manager.3", 1, 901)],
            "manager.3 took over from manager.1, as another manager did before",
        ),
        (
            [("manager.2", 1, 900), ("manager.2", 1, 901)],
            "manager.2 says twice, and differently, whom it took over from and when",
        ),
    ],
)
def test_where_nobody_can_tell_who_was_in_office_nothing_is_judged(new_story, told, note):
    story = new_story().begin()
    for actor, predecessor, seq in told:
        story._lamport[actor] = 99
        story.say(actor, "manager.took-over",
                  predecessor=predecessor, entry=1, seq=seq, repeated=0)  # fmt: skip
    story.free(0)
    story.refuse(story.post([0, 1]), 0)

    judgement = story.destroy_all().end().judge()

    assert note in judgement.notes
    assert (str(judgement.verdict), judgement.violations) == ("inconclusive", ())


def test_a_take_over_that_is_not_recorded_leaves_no_order(new_story, summary):
    story = taken_over(new_story).end()
    lost = [each for each in story.records if each.event != "manager.took-over"]

    assert summary(judge(History.of(lost))) == {
        "verdict": "inconclusive",
        "notes": ["manager.1, manager.2 had the VM, but a take-over is not in the history"],
    }


def test_a_take_over_that_is_told_late_is_doubted(new_story, summary):
    story = new_story().begin()
    story._lamport["manager.2"] = story._lamport["manager.1"]
    early = story.say("manager.2", "background.stopped")
    story.take_over()
    story.destroy_all().end()

    assert early.seq == 0
    assert summary(story.judge())["notes"] == [
        "record 0 of manager.2 stands before the one of its take-over"
    ]


def test_a_take_over_whose_record_lacks_a_detail_is_left_out_and_said_so(new_story, summary):
    story = taken_over(new_story).end()
    records = [
        each.model_copy(update={"details": {"predecessor": 1, "entry": 1, "repeated": 0}})
        if each.event == "manager.took-over"
        else each
        for each in story.records
    ]

    summed = summary(judge(History.of(records)))

    assert summed["verdict"] == "inconclusive"
    assert summed["notes"][0].endswith("is left out: manager.took-over lacks the detail 'seq'")


def test_the_report_says_who_took_over_from_whom(new_story):
    story = taken_over(new_story, entry=12, repeated=1)
    story.say(STALE, "vm.freed")
    story.take_over(entry=30)
    history = replace(story.end().history(), path="h.jsonl")

    lines = describe(judge(history), gather(history)).splitlines()

    assert lines[5:8] == [
        "  manager.2 took over from manager.1 after entry 12 of its log; performed again: 1 entry",
        "  manager.3 took over from manager.2 after entry 30 of its log; performed again: nothing",
        "  1 record of managers that had lost their office: no evidence",
    ]


def test_a_report_tells_epochs_only_where_there_are_several(new_story):
    def report(story):
        story.free(0)
        story.take_over() if story.scenario["vcpus"] == 3 else None
        story.refuse(story.post([0, 1], vcpu=1, caused_by="vm-a.1/destroy-vm"), 0)
        history = story.end().history()
        return describe(judge(history), gather(history))

    assert "TlbFlush vm-a.1/request/1 by manager\n" in report(new_story(vcpus=2).begin())
    assert "TlbFlush vm-a.1/request/1 by manager.2\n" in report(new_story(vcpus=3).begin())

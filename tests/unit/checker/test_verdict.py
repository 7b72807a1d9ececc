import pytest

from teardown_lab.checker import Counts, History, Vacuity, VacuityReason, exit_code, judge

BOX = "vcpu.vm-a.0.1"


@pytest.fixture
def wiped_last(new_story):
    """A flush of vCPU 1 meets vCPU 0, freed and still visible."""
    story = new_story(vcpus=2).begin("unload-in-destroy-wipe-last")
    zap = story.post([0, 1], by="zap-all")
    story.deliver(zap, 0, 1)
    free = story.free(0)
    flush = story.post([0, 1], vcpu=1)
    story.refuse(flush, 0)
    story.deliver(flush, 1)
    story.free(1)
    story.erase(0)
    story.erase(1)
    return story.end().judge(), flush, free


def test_the_json_object_of_a_run(wiped_last):
    judgement, flush, free = wiped_last

    result = dict(judgement.to_json("out/h.jsonl"))
    messages = result.pop("messages")
    assert result == {
        "schema": 1,
        "ordering": "unload-in-destroy-wipe-last",
        "scenario": {"vcpus": 2, "mmu": "shadow", "roots": "distinct"},
        "broker": "simulated",
        "verdict": "violated",
        "violations": [
            {
                "invariant": "use-after-free",
                "vcpu": 0,
                "message_id": flush,
                "explain": "`unload_mmu` of vCPU 1 posted a TLB flush, which reached vCPU 0 after "
                "its `free_vcpu` and before its `erase_vcpu`. "
                "kvm_flush_remote_tlbs(), raised by kvm_mmu_unload() of vCPU 1, wrote "
                "to vCPU 0, which kvm_vcpu_destroy() had freed: TlbFlush vm-a.1/request/2 arrived "
                f"in mailbox {BOX} after {free}.",
                "used_by": flush,
                "freed_by": free,
                "allocated_by": "vm-a.1/place-vcpu/0",
            }
        ],
        "hazards": [{"hazard": "visible-while-freed", "vcpu": 1}],
        "dead_letters": [
            {"reason": "rejected", "queue": BOX, "vcpu": 0, "invariant": "use-after-free"}
        ],
        "lost_hosts": [],
        "counts": {
            "commands": 2,
            "flush_broadcasts": 2,
            "flush_deliveries": 4,
            "flush_acks": 3,
            "unload_flush_requests": 2,
            "dead_letters": 1,
            "unaccounted": 0,
        },
        "vacuity": None,
        "takeovers": 0,
        "notes": [],
        "source": "simulated",
        "seconds": {"create": 1.5, "teardown": 0.25},
        "history": "out/h.jsonl",
    }
    assert set(messages) >= {flush, free}


def test_the_json_object_has_what_caused_each_message_of_a_chain(wiped_last):
    judgement, flush, free = wiped_last

    messages = judgement.to_json("out/h.jsonl")["messages"]

    assert messages[flush] == {
        "type": "TlbFlush",
        "function": "kvm_make_all_cpus_request",
        "by": "manager.1",
        "caused_by": None,
    }
    assert messages[free]["caused_by"] == "vm-a.1/destroy-vm"
    assert messages["vm-a.1/destroy-vm"]["caused_by"] is None
    assert judgement.to_json("h", source="history")["source"] == "history"
    assert exit_code(judgement) == 1


def test_a_history_without_its_frame_is_judged_all_the_same(new_story, summary):
    framed = new_story().begin().destroy_all().end()
    bare = [record for record in framed.records if not record.event.startswith("run.")]

    judgement = judge(History.of(bare))

    assert summary(judgement) == {"verdict": "safe"}
    result = judgement.to_json("h")
    assert (result["ordering"], result["broker"], result["source"], result["seconds"]) == (
        "some-ordering",
        "",
        "history",
        {"create": 1.5, "teardown": 0.25},
    )
    assert result["scenario"] == framed.scenario


@pytest.mark.parametrize("settled", ["not at all", "rejected without a dead letter"])
def test_a_request_that_is_not_accounted_for_is_inconclusive(new_story, summary, settled):
    story = new_story().begin()
    request = story.post([0, 1], by="zap-all")
    story.deliver(request, 0)
    if settled != "not at all":
        story.arrive(request, 1)
        story.say("worker.w0", "message.rejected", 1, message_id=request, reason="stale-epoch",
                  queue=story.mailbox(1), requeue=False)  # fmt: skip
    story.destroy_all()

    judgement = story.end().judge()

    assert summary(judgement) == {
        "verdict": "inconclusive",
        "notes": [
            f"1 request was neither acknowledged nor dead-lettered: {request} to vCPU 1",
        ],
    }
    assert judgement.counts.unaccounted == 1
    assert exit_code(judgement) == 3


def test_two_requests_of_one_id_are_inconclusive(new_story, summary):
    """One of them may have come to a freed vCPU, and nobody can tell which."""
    story = new_story().begin()
    request = story.post([0, 1], by="zap-all")
    story.deliver(request, 0, 1)
    first = story.records[-1].message_id
    story.say("manager.1", "request.posted", message_id=first, kind="scan-ioapic", by="pit",
              generation=1, recipients=[0, 1])  # fmt: skip
    story.destroy_all()

    assert summary(story.end().judge()) == {
        "verdict": "inconclusive",
        "notes": [
            f"different requests carry one id, {request}: whose deliveries is not to be told"
        ],
    }


def test_violated_beats_inconclusive(new_story):
    story = new_story().begin()
    story.free(0)
    story.refuse(story.post([0, 1], vcpu=1), 0)

    judgement = story.judge()

    assert judgement.verdict == "violated"
    assert judgement.notes == (
        "the history ends before the VM was freed and before a step was stuck",
        "1 request was neither acknowledged nor dead-lettered: vm-a.1/request/1 to vCPU 1",
    )
    assert exit_code(judgement) == 1


@pytest.mark.parametrize(
    ("outcome", "note"),
    [
        ("interrupted", "the run was interrupted"),
        ("refused", "the manager refused a command of the run"),
        (
            "timed-out",
            "the run ran out of time after the VM was freed, while deliveries were open; raise "
            "--timeout; not all services answered",
        ),
    ],
)
def test_a_run_that_did_not_end_by_itself_is_inconclusive(new_story, summary, outcome, note):
    story = new_story().begin().destroy_all().end(outcome)

    assert summary(story.judge()) == {"verdict": "inconclusive", "notes": [note]}


def test_a_history_that_ends_early_is_inconclusive(new_story, summary):
    story = new_story().begin()
    story.free(0)
    story.erase(0)

    assert summary(story.judge()) == {
        "verdict": "inconclusive",
        "notes": ["the history ends before the VM was freed and before a step was stuck"],
    }


def test_a_history_whose_head_is_cut_off_is_inconclusive(new_story, summary):
    """What was lost before the teardown cannot be seen without: here, whom a request missed."""
    story = new_story().begin()
    (head,) = [n for n, record in enumerate(story.records) if record.event == "teardown.started"]
    story.deliver(story.post([1], vcpu=0), 1)
    story.destroy_all().end()

    assert judge(History.of(story.records)).verdict == "violated"
    assert summary(judge(History.of(story.records[head - 1 :]))) == {
        "verdict": "inconclusive",
        "notes": ["the beginning is not in the history: nothing says what the VM was"],
    }


def test_gaps_are_evidence_only_where_the_file_says_that_it_is_whole(new_story, summary):
    whole = new_story().begin(whole=True).destroy_all().end()
    part = new_story().begin().destroy_all().end()
    lacking = [
        [record for record in story.records if record.event != "step.started"]
        for story in (whole, part)
    ]

    def lost(judgement):
        return [note for note in judgement.notes if "missing from the history" in note]

    assert lost(whole.judge()) == []
    assert summary(judge(History.of(lacking[1]))) == {"verdict": "safe"}
    assert lost(judge(History.of(lacking[0]))) == [
        "2 records of manager missing from the history",
        "2 records of worker.w0 missing from the history",
    ]


@pytest.mark.parametrize(
    ("event", "note"),
    [
        ("message.sent", "1 message was received, but its sending is not in the history: {}"),
        ("message.received", "1 message was settled, but its arrival is not in the history: {}"),
    ],
)
def test_what_refers_to_missing_records_is_inconclusive(new_story, summary, event, note):
    story = new_story(vcpus=1).begin()
    command = story.free(0)
    story.erase(0)
    story.end()
    lacking = [
        record for record in story.records if (record.event, record.message_id) != (event, command)
    ]

    assert summary(judge(History.of(lacking))) == {
        "verdict": "inconclusive",
        "notes": [note.format(command)],
    }


def test_a_vcpu_whose_creation_is_missing_is_inconclusive(new_story, summary):
    story = new_story(vcpus=2).begin().destroy_all().end()
    late = [
        record
        for record in story.records
        if record.event not in ("vcpu.visible", "vcpu.created") or record.vcpu == 0
    ]

    assert summary(judge(History.of(late))) == {
        "verdict": "inconclusive",
        "notes": ["the scenario has 2 vCPUs, the history shows the creation of 1"],
    }


def test_a_monitor_that_disagrees_makes_the_verdict_inconclusive(new_story, summary):
    story = new_story(vcpus=1).begin()
    request = story.post([0], by="zap-all")
    story.arrive(request, 0)
    story.reject(request, BOX, "stale-epoch", 0, "use-after-free")
    story.destroy_all()

    assert summary(story.end().judge()) == {
        "verdict": "inconclusive",
        "dead_letters": [("rejected", BOX, 0, None)],
        "notes": [
            f"the monitor classified dead letter {request} of {BOX} as use-after-free, the history "
            "says no violation"
        ],
    }


def test_a_stray_message_that_is_none_of_ours_is_only_listed(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.say("worker.w0", "message.rejected", 0, queue=BOX, reason="malformed", requeue=False)
    story.letter("who-knows", BOX, "rejected", 0, None, "malformed")
    story.destroy_all()

    assert summary(story.end().judge()) == {
        "verdict": "safe",
        "dead_letters": [("rejected", BOX, 0, None)],
    }


def test_redelivery_changes_no_count(new_story):
    story = new_story(vcpus=1).begin()
    request = story.post([0], vcpu=0)
    story.deliver(request, 0)
    story.deliver(request, 0)
    command = story.free(0)
    story.receive("worker.w0", command, "worker.w0.commands", 0, redelivered=True)
    story.ack(command, "worker.w0.commands")
    story.erase(0)

    assert story.end().judge().counts == Counts(
        commands=1,
        flush_broadcasts=1,
        flush_deliveries=1,
        flush_acks=1,
        unload_flush_requests=1,
        dead_letters=0,
        unaccounted=0,
    )


def vacuity_of(story):
    return story.destroy_all().end(free_roots=False).judge().vacuity


def test_unloads_under_tdp_raise_no_flush(new_story):
    assert vacuity_of(new_story(mmu="tdp").begin()) == Vacuity(VacuityReason.TDP)


def test_unloads_of_valid_roots_raise_no_flush(new_story):
    assert vacuity_of(new_story().begin()) == Vacuity(VacuityReason.NO_ZAP)


def test_a_vm_without_unloads_of_roots_raises_no_flush(new_story):
    story = new_story().begin()
    story.say("manager.1", "root.invalidated", root="root-0")

    assert vacuity_of(story) == Vacuity(VacuityReason.NO_ROOT)


def test_a_flush_that_reaches_somebody_is_not_vacuous(new_story):
    story = new_story().begin()
    story.post([], vcpu=0)
    story.deliver(story.post([0, 1], vcpu=1), 0, 1)

    assert vacuity_of(story) is None

import pytest

from teardown_lab.checker import Invariant, Violation

REQUEST = "vm-a.1/request/1"
BOX = "vcpu.vm-a.0.1"
COMMANDS = "worker.w0.commands"


def test_a_safe_teardown_is_safe(new_story, summary):
    story = new_story().begin()
    for vcpu in range(2):
        story.deliver(story.post(list(range(vcpu, 2)), vcpu=vcpu), *range(vcpu, 2))
        story.free(vcpu)
        story.erase(vcpu)

    assert summary(story.end().judge()) == {"verdict": "safe"}


def test_a_request_to_a_freed_vcpu_is_a_use_after_free(new_story):
    story = new_story().begin()
    free = story.free(0)
    request = story.post([0, 1], vcpu=1)
    story.refuse(request, 0)
    story.deliver(request, 1)
    story.free(1)
    story.erase(0)
    story.erase(1)

    judgement = story.end().judge()

    assert judgement.verdict == "violated"
    assert judgement.violations == (
        Violation(
            Invariant.USE_AFTER_FREE,
            0,
            REQUEST,
            "`unload_mmu` of vCPU 1 posted a TLB flush, which reached vCPU 0 after its `free_vcpu` "
            "and before its `erase_vcpu`. "
            "kvm_flush_remote_tlbs(), raised by kvm_mmu_unload() of vCPU 1, wrote to vCPU 0, which "
            f"kvm_vcpu_destroy() had freed: TlbFlush {REQUEST} arrived in mailbox {BOX} after "
            f"{free}.",
        ),
    )
    assert judgement.notes == ()


def test_a_tombstone_that_acknowledges_is_no_alibi(new_story, summary):
    story = new_story().begin()
    story.free(0)
    story.deliver(story.post([0, 1], vcpu=1), 0, 1)
    story.erase(0)
    story.free(1)
    story.erase(1)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("use-after-free", 0, REQUEST)],
    }


def test_a_request_that_arrived_before_the_free_is_a_duplicate_after_it(new_story, summary):
    story = new_story().begin()
    request = story.post([0, 1], by="zap-all")
    story.arrive(request, 0)
    story.deliver(request, 1)
    story.free(0)
    story.arrive(request, 0, redelivered=True)
    story.ack(request, BOX)
    story.erase(0)
    story.free(1)
    story.erase(1)

    assert summary(story.end().judge()) == {"verdict": "safe"}


def test_a_late_request_delivered_twice_counts_once(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.free(0)
    request = story.post([0], "clock-update", "ticker")
    story.arrive(request, 0)
    story.refuse(request, 0)
    story.erase(0)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("use-after-free", 0, REQUEST)],
        "dead_letters": [("rejected", BOX, 0, "use-after-free")],
    }


@pytest.mark.parametrize("reason", ["stale-epoch", "not-owned", "malformed", "unexpected"])
def test_a_reject_for_another_reason_is_no_use_after_free(new_story, summary, reason):
    story = new_story(vcpus=1).begin()
    story.free(0)
    request = story.post([0], "scan-ioapic", "pit")
    story.arrive(request, 0)
    story.reject(request, BOX, reason, 0)
    story.erase(0)

    assert summary(story.end().judge()) == {
        "verdict": "safe",
        "dead_letters": [("rejected", BOX, 0, None)],
    }


def test_a_reject_as_freed_without_any_free_is_doubted(new_story, summary):
    story = new_story(vcpus=1).begin()
    request = story.post([0], by="zap-all")
    story.refuse(request, 0)
    story.destroy_all()

    assert summary(story.end().judge()) == {
        "verdict": "inconclusive",
        "dead_letters": [("rejected", BOX, 0, None)],
        "notes": [
            f"worker.w0 rejected {REQUEST} as freed, but the history shows no free before it",
            f"the monitor classified dead letter {REQUEST} of {BOX} as use-after-free, the "
            "history says no violation",
        ],
    }


def test_a_completion_after_the_free_is_a_use_after_free(new_story, summary):
    story = new_story(vcpus=1, async_pf=1).begin()
    free = story.free(0)
    late = story.send("worker.w0", "AsyncPfCompleted", "async-pf-completed/0/0", vcpu=0, fault=0,
                      caused_by=free)  # fmt: skip
    story.receive("worker.w0", late, COMMANDS, 0)
    story.reject(late, COMMANDS, "freed", 0, "use-after-free")
    story.erase(0)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("use-after-free", 0, late)],
        "dead_letters": [("rejected", COMMANDS, 0, "use-after-free")],
    }


def test_a_completion_that_is_never_settled_is_not_proved_safe(new_story, summary):
    story = new_story(vcpus=1, async_pf=1).begin().destroy_all()
    late = story.send("worker.w0", "AsyncPfCompleted", "async-pf-completed/0/0", vcpu=0, fault=0)

    assert summary(story.end().judge()) == {
        "verdict": "inconclusive",
        "notes": [f"1 message was neither acknowledged nor dead-lettered: {late}"],
    }


def test_a_command_to_a_freed_vcpu_is_a_use_after_free(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.free(0)
    command = story.command(0, "unload_mmu")
    story.reject(command, COMMANDS, "freed", 0, "use-after-free")
    story.erase(0)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("use-after-free", 0, command)],
        "dead_letters": [("rejected", COMMANDS, 0, "use-after-free")],
    }


def test_a_step_behind_the_free_in_one_command_is_a_use_after_free(new_story, summary):
    story = new_story(vcpus=1).begin()
    command = story.command(0, "free_vcpu", "unload_mmu")
    story.say("worker.w0", "vcpu.freed", 0, caused_by=command, generation=0)
    story.step(0, "unload_mmu", command)
    story.done(0, command)
    story.erase(0)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("use-after-free", 0, command)],
    }


def test_a_finished_command_delivered_again_is_a_duplicate(new_story, summary):
    story = new_story(vcpus=1).begin()
    command = story.free(0)
    story.receive("worker.w0", command, COMMANDS, 0, redelivered=True)
    story.ack(command, COMMANDS)
    story.erase(0)

    assert summary(story.end().judge()) == {"verdict": "safe"}


@pytest.mark.parametrize("steps", [("free_vcpu",), ("free_vcpu", "unload_mmu")])
def test_a_second_free_is_a_double_free(new_story, summary, steps):
    story = new_story(vcpus=1).begin()
    story.free(0)
    command = story.command(0, *steps)
    story.reject(command, COMMANDS, "double-free", 0, "double-free")
    story.erase(0)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("double-free", 0, command)],
        "dead_letters": [("rejected", COMMANDS, 0, "double-free")],
    }


def test_a_second_free_that_the_worker_carried_out_is_a_double_free(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.free(0)
    command = story.free(0)
    story.erase(0)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("double-free", 0, command)],
    }


def test_a_request_that_reaches_an_erased_vcpu_is_visible_after_erase(new_story, summary):
    story = new_story(vcpus=1).begin()
    story.erase(0)
    request = story.post([0], "scan-ioapic", "pit")
    story.deliver(request, 0)
    story.free(0)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("visible-after-erase", 0, REQUEST)],
    }


def test_an_erased_vcpu_that_is_freed_too_is_reported_once_as_used_after_free(new_story):
    story = new_story(vcpus=2).begin()
    free = story.free(0)
    story.erase(0)
    request = story.post([1], vcpu=1)
    story.deliver(request, 1)
    story.refuse(request, 0)
    story.free(1)
    story.erase(1)

    judgement = story.end().judge()

    assert [(each.invariant, each.vcpu) for each in judgement.violations] == [
        (Invariant.USE_AFTER_FREE, 0)
    ]
    assert judgement.violations[0].explain.endswith(
        f"after {free}. Its xa_erase() came before the post, yet the array still showed it."
    )


def test_a_vcpu_bound_again_after_its_erase_is_visible_after_erase(new_story, summary):
    story = new_story(vcpus=1).begin().destroy_all()
    story.say("manager.1", "vcpu.visible", 0, caused_by="vm-a.1/odd", mailbox=BOX)

    assert summary(story.end().judge()) == {
        "verdict": "violated",
        "violations": [("visible-after-erase", 0, "vm-a.1/odd")],
    }


def test_a_request_delivered_past_its_recipients_is_doubted(new_story, summary):
    story = new_story().begin()
    story.free(1)
    story.erase(1)
    story.say("manager.1", "vcpu.hidden", 0, hole=1)
    story.free(0)
    story.erase(0)
    request = story.post([], by="flush-tlbs")
    assert request == ""

    assert summary(story.end().judge()) == {
        "verdict": "safe",
        "hazards": [("flush-to-nobody", None)],
    }


def test_a_recorded_kernel_without_messages_is_judged_by_deliveries(new_story, summary):
    story = new_story(vcpus=2)
    for vcpu in range(2):
        story.say("kernel", "vcpu.visible", vcpu)
        story.say("kernel", "vcpu.created", vcpu)
    story.say("kernel", "vcpu.freed", 0)
    story.say("kernel", "request.posted", 1, message_id="flush-1", kind="tlb-flush", by="unload",
              generation=1, recipients=[0, 1])  # fmt: skip
    for vcpu in range(2):
        story.say("kernel", "request.delivered", vcpu, message_id="flush-1", kind="tlb-flush",
                  generation=1, outcome="posted")  # fmt: skip
    story.say("kernel", "vcpu.freed", 1)
    story.say("kernel", "vcpu.erased", 0)
    story.say("kernel", "vcpu.erased", 1)
    story.say("kernel", "vm.freed")

    assert summary(story.judge()) == {
        "verdict": "violated",
        "violations": [("use-after-free", 0, "flush-1")],
    }
    assert story.judge().counts.unload_flush_requests == 2

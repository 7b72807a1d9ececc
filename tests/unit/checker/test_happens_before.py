import random

from teardown_lab.checker import History, judge
from teardown_lab.checker.happens_before import before, order


def moments(records):
    return {(moment.record.actor, moment.record.seq): moment for moment in order(records).moments}


def test_program_order_and_messages_order_records(new_story):
    story = new_story()
    story.say("worker.w0", "vcpu.freed", 0)
    message = story.send("worker.w0", "VcpuStepsDone", "done", vcpu=0)
    story.say("manager.1", "vm.freed")
    story.receive("manager.1", message, "manager.replies")
    story.say("manager.1", "vcpu.erased", 0)
    known = moments(story.records)
    freed, vm_freed = known["worker.w0", 0], known["manager.1", 0]
    erased = known["manager.1", 2]

    assert before(freed, erased)
    assert not before(erased, freed)
    assert not before(freed, vm_freed)
    assert not before(vm_freed, freed)
    assert not before(freed, freed)


def test_order_reaches_through_a_third_actor(new_story):
    story = new_story()
    story.say("worker.w0", "vcpu.freed", 0)
    first = story.send("worker.w0", "VcpuStepsDone", "done", vcpu=0)
    story.receive("manager.1", first, "manager.replies")
    second = story.send("manager.1", "DestroyVcpu", "destroy", vcpu=1)
    story.receive("worker.w1", second, "worker.w1.commands")
    known = moments(story.records)

    assert before(known["worker.w0", 0], known["worker.w1", 0])


def test_a_message_received_twice_orders_both_receipts(new_story):
    story = new_story()
    message = story.send("manager.1", "DestroyVcpu", "destroy", vcpu=1)
    story.receive("worker.w0", message, "worker.w0.commands")
    story.receive("worker.w1", message, "worker.w1.commands")
    known = moments(story.records)

    assert before(known["manager.1", 0], known["worker.w0", 0])
    assert before(known["manager.1", 0], known["worker.w1", 0])


def test_the_order_of_lines_changes_nothing(new_story):
    story = new_story(vcpus=4).begin()
    for vcpu in range(4):
        request = story.post([0, 1, 2, 3], vcpu=vcpu)
        for each in range(4):
            story.refuse(request, each) if each < vcpu else story.deliver(request, each)
        story.free(vcpu)
    story.end()
    expected = story.judge()
    assert len(expected.violations) == 6

    for seed in range(20):
        shuffled = list(story.records)
        random.Random(seed).shuffle(shuffled)
        assert judge(History.of(shuffled)) == expected


def test_records_written_twice_count_once(new_story):
    story = new_story().begin().destroy_all().end()

    assert judge(History.of([*story.records, *story.records[5:20]])) == story.judge()


def test_a_restarted_actor_makes_the_verdict_inconclusive(new_story, summary):
    story = new_story().begin().destroy_all().end()
    last = next(record for record in story.records[::-1] if record.actor == "manager.1")
    again = last.model_copy(update={"seq": 3})

    assert summary(judge(History.of([*story.records, again]))) == {
        "verdict": "inconclusive",
        "notes": [
            "two records of manager carry one number: it was restarted, or the file is mixed"
        ],
    }


def test_a_message_received_before_it_can_be_sent_makes_the_verdict_inconclusive(
    new_story, summary
):
    story = new_story().begin()
    story.receive("manager.1", "vm-a.1/later", "manager.replies", type="VcpuStepsDone")
    story.send("manager.1", "VcpuStepsDone", "later", vcpu=0)
    story.destroy_all().end()

    assert summary(story.judge()) == {
        "verdict": "inconclusive",
        "notes": ["1 message was received before it can have been sent: vm-a.1/later"],
    }

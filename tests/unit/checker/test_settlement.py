import pytest

from teardown_lab.checker import Settlement
from vm_protocol.wire import Record

BOX = "vcpu.vm-a.0.1"


def settled_at(records: list[Record]) -> list[int]:
    """Return the places after which the run counted as settled."""
    settlement = Settlement("vm-a")
    places = []
    for place, record in enumerate(records):
        settlement.feed(record)
        if settlement.settled:
            places.append(place)
    return places


def place_of(story, event: str) -> int:
    return [record.event for record in story.records].index(event)


def test_a_run_is_settled_once_its_vm_is_freed_and_its_client_is_answered(new_story):
    story = new_story().begin()
    story.deliver(story.post([0, 1]), 0, 1)
    story.destroy_all().end()
    answered = [record.message_id for record in story.records].index("vm-a.1/vm-destroyed")

    assert settled_at(story.records)[0] == answered


@pytest.mark.parametrize("reverse", [False, True])
def test_a_run_waits_for_every_delivery_in_either_order(new_story, reverse):
    story = new_story(vcpus=1).begin().destroy_all().end()
    before = len(story.records)
    request = story.post([0])
    story.deliver(request, 0)
    late = story.records[before:]
    records = story.records[:before]
    if reverse:
        late = late[::-1]
    settlement = Settlement("vm-a")
    for record in records:
        settlement.feed(record)
    assert settlement.settled

    for record in late:
        settlement.feed(record)

    assert settlement.settled
    assert (settlement.open_deliveries, settlement.open_letters) == (0, 0)


def test_a_final_reject_waits_for_its_dead_letter(new_story):
    story = new_story(vcpus=1).begin()
    story.free(0)
    story.erase(0)
    request = story.post([0], vcpu=0)
    story.end()
    story.refuse(request, 0)

    assert settled_at(story.records) == [place_of(story, "dead_letter.classified")]


def test_a_requeue_is_no_final_reject_and_other_vms_are_ignored(new_story):
    story = new_story(vcpus=1).begin().destroy_all().end()
    story.reject("vm-a.1/some", "worker.w0.commands", "roots-pinned", requeue=True)
    other = new_story(vm="vm-b").begin()
    other.post([0, 1])

    assert settled_at(story.records)[-1] == len(story.records) - 1
    assert settled_at([*story.records, *other.records])[-1] == (
        len(story.records) + len(other.records) - 1
    )


def test_an_expired_request_is_accounted_for_by_its_dead_letter(new_story):
    story = new_story(vcpus=1).begin()
    request = story.post([0])
    story.destroy_all().end()
    story.letter(request, BOX, "expired", 0)

    assert settled_at(story.records) == [len(story.records) - 1]


def test_late_completions_and_reads_of_vm_state_are_waited_for(new_story):
    story = new_story(vcpus=1, async_pf=1).begin()
    read = story.reply("vm-state-read/0/1/0/irqchip", "VmStateRead", 0, state="irqchip")
    late = story.send("worker.w0", "AsyncPfCompleted", "async-pf-completed/0/0", vcpu=0, fault=0)
    story.destroy_all().end()
    story.ack(read, "manager.replies", "manager.1")
    story.receive("worker.w0", late, "worker.w0.commands", 0)
    story.ack(late, "worker.w0.commands")

    assert settled_at(story.records) == [len(story.records) - 1]


def test_a_stuck_teardown_settles_too(new_story):
    story = new_story().begin()
    story.say("manager.1", "teardown.stuck", 0, why="no end")
    story.send("manager.1", "VmDestroyed", "vm-destroyed", outcome="stuck")

    assert settled_at(story.records) == [len(story.records) - 1]


def test_a_stuck_teardown_is_quiet_once_its_other_commands_have_ended(new_story):
    story = new_story().begin()
    first, second = story.command(0, "free_vcpu"), story.command(1, "free_vcpu")
    story.reject(first, "worker.w0.commands", "fence-not-reached", 0, "stuck")
    story.say("manager.1", "teardown.stuck", 0, why="fence not reached")
    story.send("manager.1", "VmDestroyed", "vm-destroyed", outcome="stuck")
    settlement = Settlement("vm-a")
    for record in story.records:
        settlement.feed(record)
    assert (settlement.settled, settlement.quiet) == (True, False)

    story.ack(second, "worker.w0.commands")
    settlement.feed(story.records[-1])

    assert (settlement.settled, settlement.quiet) == (True, True)


@pytest.mark.parametrize("missing", ["message.sent", "message.received"])
def test_a_message_that_nobody_has_sent_or_received_yet_is_a_gap(new_story, missing):
    story = new_story(vcpus=1).begin()
    story.command(0, "free_vcpu")
    story.destroy_all().end()
    late = [r for r in story.records if r.event == missing and "destroy-vcpu" in str(r.message_id)]
    settlement = Settlement("vm-a")
    for record in story.records:
        if record not in late:
            settlement.feed(record)
    assert (settlement.settled, settlement.has_gaps) == (True, True)

    for record in late:
        settlement.feed(record)

    assert (settlement.settled, settlement.has_gaps) == (True, False)


def test_what_a_manager_sends_out_of_office_is_not_waited_for(new_story):
    story = new_story(vcpus=1).begin()
    story.manager, stale = "manager.2", "manager.1"
    end = story._seq[stale]
    lost = story.send(stale, "TlbFlush", "request/9", generation=9, recipients=[0])
    story.manager = stale
    story.take_over(seq=end)
    story.send(stale, "TlbFlush", "request/10", generation=10, recipients=[0])
    story.destroy_all().end()

    assert lost.endswith("request/9")
    assert len(story.records) - 1 in settled_at(story.records)


def test_a_stale_message_settles_only_its_own_letter(new_story):
    """The successor's of the same id is still under way."""
    story = new_story(vcpus=1).begin()
    story.take_over()
    request = story.post([0])
    story.destroy_all().end()
    story.arrive(request, 0)
    story.reject(request, BOX, "stale-epoch", 0)
    before = len(story.records)
    story.deliver(request, 0)

    assert settled_at(story.records)[0] == before + 2


def test_a_stale_message_that_nobody_in_office_sent_leaves_no_gap(new_story):
    story = new_story(vcpus=1).begin()
    story.take_over()
    story.receive("worker.w0", "vm-a.1/request/7", BOX, 0, type="TlbFlush")
    settlement = Settlement("vm-a")
    for record in story.records:
        settlement.feed(record)
    assert settlement.has_gaps

    story.reject("vm-a.1/request/7", BOX, "stale-epoch", 0)
    for record in story.records[-2:]:
        settlement.feed(record)

    assert not settlement.has_gaps
    assert not settlement.open_letters

import json

import pytest

from teardown_lab.checker import History, HistoryError, judge, load_history

LINE = {"schema": 1, "seq": 0, "actor": "manager.1", "event": "vm.freed", "vm": "vm-a",
        "lamport": 0, "at_ns": 0}  # fmt: skip


def write(tmp_path, *lines):
    path = tmp_path / "h.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return path


def test_a_history_read_back_is_the_history_that_was_written(tmp_path, new_story):
    story = new_story().begin().destroy_all().end()
    path = tmp_path / "h.jsonl"
    path.write_text(story.lines())

    history = load_history(path)

    assert history == History(tuple(story.records), False, str(path))
    assert judge(history) == story.judge()
    for read, told in zip(history.records, story.records, strict=True):
        assert read.model_fields_set == set(json.loads(told.to_line())) - {"schema"} | {
            "schema_version"
        }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ({**LINE, "schema": 2}, "schema 2; this program reads schema 1"),
        ({**LINE, "schema": 2, "new_field": 1}, "schema 2; this program reads schema 1"),
        ({**LINE, "event": "vm.exploded"}, "not a record: event: Input should be "),
        ({**LINE, "seq": -1}, "not a record: seq: Input should be greater than or equal to 0"),
        ({**LINE, "extra": 1}, "not a record: extra: Extra inputs are not permitted"),
        ({**LINE, "at_ns": 10**400}, "not a record: at_ns: "),
        ({**LINE, "seq": 10**30}, "not a record: seq: "),
        ({**LINE, "vcpu": 1024}, "not a record: vcpu: Input should be less than 1024"),
        ("[" * 200_000, "not a record: lists or objects stand too deep inside each other"),
        ('{"details": ' * 5_000, "not "),
        ('{"schema": ' + "1" * 5_000 + "}", "not "),
        ("\ufeff{}", "not "),
        ("null", "not a JSON object"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named_with_its_place(tmp_path, line, problem):
    path = write(tmp_path, LINE, line, LINE)

    with pytest.raises(HistoryError) as raised:
        load_history(path)

    assert str(raised.value).startswith(f"{path}:2: {problem}")


def test_an_empty_file_is_refused(tmp_path):
    path = write(tmp_path, "")

    with pytest.raises(HistoryError) as raised:
        load_history(path)

    assert str(raised.value) == f"{path}:1: the history is empty"


def test_a_last_line_cut_off_is_left_out_and_makes_the_verdict_inconclusive(
    tmp_path, new_story, summary
):
    text = new_story().begin().destroy_all().end().lines()
    path = tmp_path / "h.jsonl"
    path.write_text(text[:-30])

    history = load_history(path)

    assert history.cut_off
    assert summary(judge(history)) == {
        "verdict": "inconclusive",
        "notes": ["the last line of the history is cut off"],
    }


def test_a_last_line_without_its_newline_is_whole(tmp_path, new_story):
    path = tmp_path / "h.jsonl"
    path.write_text(new_story().begin().destroy_all().end().lines().rstrip("\n"))

    assert not load_history(path).cut_off


def test_a_bad_last_line_with_its_newline_is_an_error(tmp_path):
    path = write(tmp_path, LINE, "{", "")

    with pytest.raises(HistoryError, match=r"h\.jsonl:2: not JSON"):
        load_history(path)


def test_several_vms_are_judged_only_by_name(new_story, summary):
    good = new_story(vm="vm-a").begin().destroy_all().end()
    bad = new_story(vm="vm-b").begin()
    bad.free(0)
    bad.refuse(bad.post([0, 1], vcpu=1), 0)
    both = History.of([*good.records, *_renumbered(bad.records, len(good.records))])

    with pytest.raises(HistoryError) as unnamed:
        judge(both)
    with pytest.raises(HistoryError) as unknown:
        judge(both, "vm-c")

    assert str(unnamed.value) == "-: 2 VMs (vm-a, vm-b); name the one to judge with --vm"
    assert str(unknown.value) == "-: there is no VM 'vm-c' (it holds: vm-a, vm-b)"
    assert both.vms() == ("vm-a", "vm-b")
    assert summary(judge(both, "vm-a")) == {"verdict": "safe"}
    assert judge(both, "vm-b").verdict == "violated"


def _renumbered(records, offset):
    return [record.model_copy(update={"seq": record.seq + offset}) for record in records]


def test_a_history_without_any_vm_is_refused(new_story):
    story = new_story()
    story.say("lab", "run.finished", vm=None, outcome="interrupted")

    with pytest.raises(HistoryError, match="no record belongs to a VM"):
        story.judge()


@pytest.mark.parametrize(
    ("event", "fields", "lacks"),
    [
        ("vcpu.freed", {}, "vcpu.freed lacks 'vcpu'"),
        ("message.acked", {"details": {"queue": "q"}}, "message.acked lacks 'message_id'"),
        ("request.posted", {"details": {"kind": "tlb-flush", "by": "pit"}},
         "request.posted lacks the detail 'recipients'"),
        ("request.posted", {"details": {"kind": "tlb-flush", "by": "pit", "recipients": "all"}},
         "request.posted: the detail 'recipients' is no list of whole numbers"),
        ("root.pinned", {"vcpu": 0, "details": {"root": "r", "context": True, "slot": 0}},
         "root.pinned: the detail 'context' is no whole number"),
        ("root.pinned", {"vcpu": 0, "details": {"root": "r", "context": 10**30, "slot": 0}},
         "root.pinned: the detail 'context' is no whole number"),
        ("guest.entered", {"vcpu": 0}, "guest.entered lacks the detail 'pages'"),
        ("message.sent", {"message_id": "m", "details": {"type": "TlbFlush"}},
         "message.sent lacks the detail 'body'"),
        ("message.sent",
         {"message_id": "m", "details": {"type": "TlbFlush", "body": {"generation": 1}}},
         "the body of m lacks 'recipients'"),
        ("message.sent", {"message_id": "m", "details":
         {"type": "TlbFlush", "body": {"generation": 1, "recipients": [[1]]}}},
         "the body of m: 'recipients' is no list of whole numbers"),
    ],
)  # fmt: skip
def test_a_record_without_what_its_event_needs_is_left_out_and_makes_the_verdict_inconclusive(
    tmp_path, new_story, event, fields, lacks
):
    """A missing detail is no empty one: nothing is judged from half a record."""
    lines = new_story().begin().destroy_all().end().lines()
    path = tmp_path / "h.jsonl"
    bad = {**LINE, "seq": 999, "event": event, **fields}
    path.write_text(f"{lines}{json.dumps(bad)}\n")
    place = f"line {len(lines.splitlines()) + 1}"

    judgement = judge(load_history(path))

    assert judgement.verdict == "inconclusive"
    assert f"{place} is left out: {lacks}" in judgement.notes


def test_an_empty_history_in_memory_is_refused():
    with pytest.raises(HistoryError, match="the history is empty"):
        History.of([])

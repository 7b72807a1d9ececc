"""The details of every event: complete, true to what runs say, and deaf to nonsense."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.randomness import seeded
from support.samples import SAMPLES
from support.simulated import run

from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol import details, limits
from vm_protocol.errors import RejectReason, RemoteProtocolError
from vm_protocol.observations import EVENTS, Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

RICH = Scenario(
    vcpus=3,
    async_pf=1,
    avic=True,
    nested=(1,),
    in_guest=(0, 2),
    previous_roots=1,
    ticker_ms=2,
)
FLUSH = SAMPLES["TlbFlush"]
SENT = {
    "type": "TlbFlush",
    "exchange": "vm.requests",
    "routing_key": "vm-7",
    "body": FLUSH.model_dump(mode="json"),
}


def record(event: Event, said: dict[str, Any], **fields: Any) -> Record:
    known = {"seq": 0, "actor": "manager.1", "event": event, "lamport": 0, "at_ns": 0, "vm": "vm-7"}
    return Record.model_validate(known | {"details": said} | fields)


def is_sense(told: Record) -> bool:
    try:
        details.check(told)
    except RemoteProtocolError as error:
        return error.reason != RejectReason.MALFORMED
    return True


def test_the_details_are_those_that_the_vocabulary_lists() -> None:
    listed = {event: set(meaning.details) for event, meaning in EVENTS.items()}

    assert {event: details.names(event) for event in Event} == listed


@pytest.mark.parametrize("name", catalogue_names())
def test_whatever_a_run_says_is_sense(name: str) -> None:
    everything = run(catalogue_entry(name).ordering, RICH, workers=2).everything

    assert [each for each in everything if not is_sense(each)] == []


ODD: list[Any] = [
    None,
    True,
    -1,
    5,
    0.5,
    2**63,
    10**400,
    "x",
    "y" * 5000,
    [],
    [5],
    [[0]],
    ["x"],
    {},
    {"a": {"b": [1]}},
    [0] * (limits.PINS_MAX + 1),
]


def test_a_detail_of_any_other_type_is_nonsense_unless_its_own_type_takes_it() -> None:
    """Every event, every detail: retyped by each odd value, removed, and with a surplus one."""
    everything = [
        each
        for name in catalogue_names()
        for each in run(catalogue_entry(name).ordering, RICH, workers=2).everything
    ]
    samples = {each.event: each for each in everything if each.details}
    taken = {
        (str(event), name, json.dumps(odd)[:20])
        for event, sample in samples.items()
        for name in sample.details
        for odd in ODD
        if type(odd) is not type(sample.details[name])
        and not isinstance(sample.details[name], tuple | list)
        and is_sense(sample.model_copy(update={"details": sample.details | {name: odd}}))
    }
    optional = {
        "type",
        "generation",
        "place",
        "invariant",
        "exchange",
        "routing_key",
        "lines",
    }
    gone = {
        (str(event), name)
        for event, sample in samples.items()
        for name in sample.details
        if is_sense(
            sample.model_copy(
                update={"details": {k: v for k, v in sample.details.items() if k != name}}
            )
        )
    }

    assert taken == {("dead_letter.classified", "invariant", "null")}
    assert {name for _, name in gone} <= optional
    for sample in samples.values():
        surplus = sample.model_copy(update={"details": {**sample.details, "colour": "red"}})
        assert not is_sense(surplus)


@pytest.mark.parametrize(
    "said",
    [
        {**SENT, "body": {"recipients": 5}},
        {**SENT, "body": {**SENT["body"], "recipients": [[0]]}},  # type: ignore[dict-item]
        {**SENT, "body": {**SENT["body"], "recipients": [0] * 2000}},  # type: ignore[dict-item]
        {**SENT, "body": {**SENT["body"], "generation": 6}},  # type: ignore[dict-item]
        {**SENT, "body": {**SENT["body"], "vm": "vm-8"}},  # type: ignore[dict-item]
        {**SENT, "body": SAMPLES["ScanIoapic"].model_dump(mode="json")},
        {**SENT, "type": "ScanIoapic"},
        {"type": "TlbFlush", "body": SENT["body"]},
    ],
)
def test_a_sending_whose_body_is_no_such_message_is_nonsense(said: dict[str, Any]) -> None:
    assert is_sense(record(Event.MESSAGE_SENT, SENT, message_id=FLUSH.identity()))

    assert not is_sense(record(Event.MESSAGE_SENT, said, message_id=FLUSH.identity()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(data=st.data())
def test_no_value_of_any_detail_raises_anything_else(data: st.DataObject) -> None:
    event = data.draw(st.sampled_from(Event))
    names = sorted(details.names(event)) or ["surplus"]
    said = data.draw(st.dictionaries(st.sampled_from(names), json_values))

    is_sense(record(event, said))


def test_numbers_and_texts_of_a_record_are_bounded() -> None:
    random = seeded("details")
    line = record(Event.VM_FREED, {}).to_line()
    digits = "9" * random.randrange(30, 5000)

    for name in ("seq", "lamport", "at_ns"):
        with pytest.raises(ValidationError):
            Record.model_validate_json(line.replace(f'"{name}":0', f'"{name}":{digits}'))
    with pytest.raises(ValidationError):
        Record.model_validate_json(line.replace("vm-7", "v" * random.randrange(300, 5000)))

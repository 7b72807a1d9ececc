"""The wire, frozen: see support.golden for how to write the files anew."""

import pytest
from support.golden import FOLDER, as_data, as_packet, frozen
from support.samples import SAMPLES, sample_envelope
from support.strategies import MESSAGE_TYPES

from vm_protocol import codec


@pytest.mark.parametrize("name", SAMPLES)
def test_the_wire_of_every_message_is_that_of_its_golden_file(name: str) -> None:
    message = SAMPLES[name]
    envelope = sample_envelope(message)
    packet = codec.encode(message, envelope)

    golden = frozen(name, packet)

    assert as_data(packet) == golden
    assert codec.decode(as_packet(golden)) == (message, envelope)


def test_every_message_type_has_a_golden_file_and_none_is_left_over() -> None:
    types = sorted(kind.__name__ for kind in MESSAGE_TYPES)

    assert sorted(SAMPLES) == types
    assert sorted(file.stem for file in FOLDER.iterdir()) == types


def test_a_golden_sample_leaves_no_field_at_its_default() -> None:
    left = [
        (name, field)
        for name, message in SAMPLES.items()
        for field, info in type(message).model_fields.items()
        if field != "type" and getattr(message, field) == info.default
    ]

    assert left == []

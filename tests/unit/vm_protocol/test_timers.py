"""Names of timers: each kind there and back, and what is no timer's name."""

import pytest

from vm_protocol.errors import LocalProtocolError
from vm_protocol.timers import Timer, TimerKind, parse_timer


@pytest.mark.parametrize("kind", list(TimerKind))
def test_every_timer_is_parsed_back_from_its_name(kind: TimerKind) -> None:
    timer = Timer(kind, "vcpu.vm-0.1.1")

    assert parse_timer(str(timer)) == timer
    assert str(timer) == f"{kind.value}/vcpu.vm-0.1.1"


@pytest.mark.parametrize("name", ["", "tick", "tick/", "/vm-0", "tock/vm-0", "Tick/vm-0"])
def test_a_name_that_is_no_timers_is_refused_loudly(name: str) -> None:
    with pytest.raises(LocalProtocolError, match="no service sets a timer"):
        parse_timer(name)

"""A first delivery that was lost with its connection leaves no record: the second is the first.

The broker marks what it delivers again; the service, whose connection was lost before it handled
the first delivery, records only the second. No verdict and no note may come from that.
"""

import pytest
from forged.runs import SAFE, VIOLATED, records_of

from teardown_lab.checker.history import History
from teardown_lab.checker.verdict import judge
from vm_protocol.observations import Event
from vm_protocol.wire import Record


def delivered_again(record: Record) -> Record:
    if record.event is not Event.MESSAGE_RECEIVED:
        return record
    return record.model_copy(update={"details": {**record.details, "redelivered": True}})


@pytest.mark.parametrize("name", [*SAFE, *VIOLATED])
def test_a_run_whose_first_deliveries_were_all_lost_is_judged_as_before(name: str) -> None:
    records = records_of(name)
    before = judge(History.of(records))

    after = judge(History.of([delivered_again(each) for each in records]))

    assert (after.verdict, after.notes) == (before.verdict, before.notes)
    assert (after.violations, after.counts) == (before.violations, before.counts)

"""Recipients that one party forged in all of its records: what others recorded decides."""

from collections.abc import Callable
from typing import Any

import pytest
from forged.runs import SAFE, records_of

from teardown_lab.checker import History, Judgement, judge
from vm_protocol.observations import Event
from vm_protocol.wire import Record

WRONG: dict[str, Callable[[list[int]], list[int]]] = {
    "nobody": lambda _: [],
    "vCPU 0 only": lambda _: [0],
    "all but the first": lambda said: said[1:],
    "all but the last": lambda said: said[:-1],
    "everybody": lambda _: [0, 1],
}


def with_recipients(
    name: str, wrong: Callable[[list[int]], list[int]], *, body: bool, post: bool = True
) -> Judgement:
    """Judge a run whose posts, published messages or both name other recipients."""

    def forged(details: dict[str, Any]) -> dict[str, Any]:
        if "recipients" not in details:
            return details
        return {**details, "recipients": wrong(details["recipients"])}

    def changed(each: Record) -> Record:
        details = dict(each.details)
        if post and each.event is Event.REQUEST_POSTED:
            details = forged(details)
        if body and isinstance(details.get("body"), dict):
            details["body"] = forged(details["body"])
        return each.model_copy(update={"details": details})

    return judge(History.of([changed(each) for each in records_of(name)]))


@pytest.mark.parametrize("name", SAFE)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_posts_say_against_the_published_bodies_accuses_nobody(name: str, wrong: str) -> None:
    judgement = with_recipients(name, WRONG[wrong], body=False)

    assert judgement.verdict != "violated", judgement.violations


@pytest.mark.parametrize("name", SAFE)
@pytest.mark.parametrize("wrong", ["nobody", "vCPU 0 only", "all but the first"])
def test_a_vcpu_that_took_a_request_did_not_miss_it(name: str, wrong: str) -> None:
    judgement = with_recipients(name, WRONG[wrong], body=True)

    lost = [each for each in judgement.violations if each.invariant == "lost-request"]
    assert not lost


@pytest.mark.parametrize("name", SAFE)
def test_an_erased_vcpu_is_shown_only_where_post_and_message_count_it_in(name: str) -> None:
    judgement = with_recipients(name, WRONG["vCPU 0 only"], body=True, post=False)

    shown = [each for each in judgement.violations if each.invariant == "visible-after-erase"]
    assert not shown

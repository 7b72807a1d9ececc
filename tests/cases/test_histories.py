"""Histories that were once judged wrong: forged ones, and runs on machines that were too slow.

Each stands for a kind. The forged ones are real runs in which one thing was changed that a faulty
or lying service would have changed; tests/forged tries many more of each kind.
"""

from collections import Counter
from pathlib import Path

import pytest

from teardown_lab.checker import Judgement, judge, load_history

HISTORIES = Path(__file__).parent / "histories"


def judged(name: str) -> Judgement:
    return judge(load_history(HISTORIES / f"{name}.jsonl"))


@pytest.mark.parametrize(
    ("name", "violations", "note"),
    [
        (
            "letter-of-an-unrecorded-reject",
            {"use-after-free": 1},
            "dead letter vm-0.1/request/6 of vcpu.vm-0.0.1: nobody in the history rejected it",
        ),
        (
            "post-names-recipients-of-nothing",
            {"lost-request": 3},
            "request.posted of a tlb-flush names recipients, but no message",
        ),
        (
            "refused-command-without-its-reject",
            {"double-free": 1},
            "vm-0.1/destroy-vcpu/0/2.0 was answered refused, but neither acknowledged nor rejected",
        ),
    ],
)
def test_what_the_rest_of_a_history_shows_is_found_and_what_is_missing_is_said(
    name: str, violations: dict[str, int], note: str
) -> None:
    judgement = judged(name)

    assert judgement.verdict == "violated"
    assert Counter(str(each.invariant) for each in judgement.violations) == violations
    assert note in judgement.notes


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("guest-without-its-pages", "line 19 is left out: guest.entered lacks the detail 'pages'"),
        (
            "root-without-its-allocation",
            "root.allocated of root-0 (shadow) at its creation is not recorded",
        ),
        (
            "pins-that-no-worker-released",
            "root.unpinned of root-0 names vm-0.1/vcpu-steps-done/1/2.0/done, but "
            "uninit_mmu (step 3) was handled",
        ),
        (
            "post-names-nobody",
            "request.posted of vm-0.1/request/1 names other recipients than the message that was "
            "published",
        ),
        (
            "two-runs-in-one-file",
            "two records of manager carry one number: it was restarted, or the file is mixed",
        ),
        ("first-arrival-missing", "3 records of worker.worker-1 missing from the history"),
    ],
)
def test_a_contradiction_is_never_safe_and_a_missing_record_no_accusation(
    name: str, note: str
) -> None:
    judgement = judged(name)

    assert (judgement.verdict, judgement.violations) == ("inconclusive", ())
    assert note in judgement.notes

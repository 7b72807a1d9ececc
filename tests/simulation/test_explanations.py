"""Every violation names its culprit first: a step of the ordering, and the line that holds it."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.broken_orderings import FIRST, LOOP, steps
from support.orderings import orderings, scenarios
from support.simulated import VM, run

from teardown_lab.checker.chains import chain
from teardown_lab.checker.findings import Violation
from teardown_lab.checker.gathering import gather
from teardown_lab.checker.history import History
from teardown_lab.checker.judgement import Judgement
from teardown_lab.checker.verdict import judge
from teardown_lab.report.kasan import kasan_report
from vm_manager.catalogue import read_ordering
from vm_protocol.invariants import Invariant
from vm_protocol.observations import Event
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

NAMED = re.compile(r"`(?P<step>[a-z_]+)`, line (?P<line>\d+)")


def text_of(ordering: Ordering, seed: int = 0) -> str:
    """Return an ordering as YAML, spread over lines; a comment before each step, as `seed` says."""
    loose: Any = ordering.model_dump(mode="json", exclude_none=True)
    lines = yaml.safe_dump(loose, sort_keys=False).splitlines()
    spread = []
    for number, line in enumerate(lines):
        spread += ["# why"] * ((seed >> number % 16) & 1) + [line]
    return "\n".join(spread) + "\n"


@dataclass(frozen=True)
class Told:
    """A judged run of an ordering that was read from a text."""

    text: str
    records: tuple[Record, ...]
    judgement: Judgement

    def wrong_lines(self) -> list[str]:
        """Return the steps that are said to stand where they do not."""
        lines = self.text.splitlines()
        return [
            found[0]
            for violation in self.judgement.violations
            for found in NAMED.finditer(violation.explain)
            if found["step"] not in lines[int(found["line"]) - 1]
        ]


def told(text: str, scenario: Scenario, workers: int = 2) -> Told:
    ran = run(read_ordering(text, "own.yaml").ordering, scenario, workers=workers)
    return Told(text, ran.records, ran.judgement)


# --- one of each kind ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIRST)
def test_the_culprit_comes_first_with_its_line(name: str) -> None:
    text, scenario, invariant, sentence = FIRST[name]

    found = told(text, scenario)

    explains = [
        each.explain for each in found.judgement.violations if str(each.invariant) == invariant
    ]
    assert any(each.startswith(sentence) for each in explains), explains
    assert found.wrong_lines() == []


def test_a_ticker_that_is_stopped_too_late_names_the_step_that_comes_too_late() -> None:
    """Forged: the tick is the ticker's own, and its place in a run is not ours to choose."""
    text = steps("- for_each_vcpu: [free_vcpu]", "- flush_tlbs", "- stop_background_workers")
    found = told(text, Scenario(vcpus=1, ticker=False))
    ticked = tuple(
        record.model_copy(update={"details": {**record.details, "by": "ticker"}})
        if record.event == Event.REQUEST_POSTED and record.details["by"] == "flush-tlbs"
        else record
        for record in found.records
    )

    first, *_ = (
        each.explain
        for each in judge(History.of(ticked), VM).violations
        if each.invariant is Invariant.USE_AFTER_FREE
    )

    assert first.startswith(
        "`stop_background_workers`, line 5, had not stopped the ticker yet: it posted a TLB flush, "
        "which reached vCPU 0 after its `free_vcpu`, line 3, with nothing to erase the vCPU. "
    )


def forged(found: Told, event: Event, **details: Any) -> tuple[Violation, ...]:
    """Return the violations after the manager has done one thing more at the end."""
    last = [record for record in found.records if record.actor == "manager.1"][-1]
    more = last.model_copy(
        update={"seq": last.seq + 1, "event": event, "message_id": None, "details": details}
    )
    return judge(History.of((*found.records, more)), VM).violations


WHOLE = steps(
    "- zap_all_roots", LOOP, "    - unload_mmu", "    - free_vcpu", "    - erase_vcpu",
    "- uninit_mmu",
)  # fmt: skip


def test_a_root_that_is_freed_twice_names_both_steps() -> None:
    found = told(WHOLE, Scenario(vcpus=1, ticker=False))

    broken = forged(found, Event.ROOT_FREED, root="root-0", by="uninit", pins=[])

    (only,) = (each for each in broken if each.invariant is Invariant.ROOT_FREED_TWICE)
    assert only.explain.startswith(
        "`uninit_mmu`, line 8, freed root-0 again, after `unload_mmu`, line 5, of vCPU 0. "
    )


def test_an_erased_vcpu_that_a_request_counts_in_names_the_erase() -> None:
    found = told(WHOLE, Scenario(vcpus=1, ticker=False))

    *_, last = (record for record in found.records if record.actor == "manager.1")
    post = {"kind": "tlb-flush", "by": "zap-all", "generation": 9, "recipients": [0]}
    body = {"vm": VM, "incarnation": 1, "generation": 9, "recipients": [0], "type": "TlbFlush"}
    to = {"exchange": "vm.requests", "routing_key": VM}
    message = {"message_id": "vm-0.1/request/9", "vcpu": None}
    more = [
        last.model_copy(
            update={
                **message,
                "event": event,
                "seq": last.seq + n,
                "lamport": last.lamport + n,
                "details": details,
            }
        )
        for n, (event, details) in enumerate(
            [
                (Event.REQUEST_POSTED, post),
                (Event.MESSAGE_SENT, {"type": "TlbFlush", **to, "body": body}),
            ],
            start=1,
        )
    ]
    broken = judge(History.of((*found.records, *more)), VM).violations

    (only,) = (each for each in broken if each.invariant is Invariant.VISIBLE_AFTER_ERASE)
    assert "`erase_vcpu`, line 7" in only.explain.partition(". ")[0]


# --- any ordering --------------------------------------------------------------------------------


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(order=orderings(), scenario=scenarios(), seed=st.integers(0, 2**16 - 1))
def test_any_violation_of_any_ordering_names_a_step_on_the_line_that_holds_it(
    order: Ordering, scenario: Scenario, seed: int
) -> None:
    text = text_of(order, seed)

    found = told(text, scenario)

    assert found.wrong_lines() == []
    for violation in found.judgement.violations:
        assert violation.explain.startswith("`"), violation.explain
        assert NAMED.search(violation.explain.partition(". ")[0]), violation.explain


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(order=orderings(), scenario=scenarios(vcpus_max=3))
def test_the_chains_hold_what_the_sentences_name_and_end_at_a_command_of_the_client(
    order: Ordering, scenario: Scenario
) -> None:
    found = told(text_of(order), scenario)
    facts = gather(History.of(found.records), VM)
    report = kasan_report(found.judgement, facts, whole_chains=True)

    for violation in found.judgement.violations:
        said = set(re.findall(rf"{VM}\.1/[a-z-]+(?:/[\w.-]+)*", violation.explain))
        assert {each.rstrip(".") for each in said} <= set(found.judgement.messages)
        for head in (violation.evidence.used_by, violation.evidence.freed_by):
            links = chain(facts.messages, head)
            names = [found.judgement.messages[each].type for each in links]
            assert "DestroyVm" not in names[:-1]
            assert not links or names[-1] == "DestroyVm" or names[-1] == "AsyncPfCompleted"
        allocated = chain(facts.messages, violation.evidence.allocated_by)
        assert not allocated or found.judgement.messages[allocated[-1]].type == "CreateVm"
        is_access = violation.invariant in (Invariant.USE_AFTER_FREE, Invariant.DOUBLE_FREE)
        if is_access and violation.vcpu is not None:
            assert all(f" {each}" in report for each in chain(facts.messages, violation.message_id))


def test_a_history_without_lines_names_the_steps_alone() -> None:
    found = told(WHOLE.replace("- unload_mmu\n", "- free_vcpu\n"), Scenario(vcpus=1))
    older = tuple(
        record.model_copy(
            update={"details": {k: v for k, v in record.details.items() if k != "lines"}}
        )
        for record in found.records
    )

    explains = [each.explain for each in judge(History.of(older), VM).violations]

    assert any(each.startswith("`free_vcpu` of vCPU 0 began after its `free_vcpu`. ")
               for each in explains)  # fmt: skip
    assert not any(", line " in each for each in explains)


def test_an_ordering_means_the_same_wherever_its_lines_stand() -> None:
    loose = read_ordering(text_of(read_ordering(WHOLE, "a").ordering, 7), "b").ordering
    tight = read_ordering(WHOLE, "a").ordering

    assert loose.lines != tight.lines
    assert (loose, hash(loose)) == (tight, hash(tight))
    assert "lines" not in tight.model_dump()

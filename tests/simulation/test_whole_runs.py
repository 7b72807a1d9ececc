"""Whole runs in memory: any ordering, any scenario, and the checker's word on each."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.orderings import orderings, scenarios
from support.simulated import STEPS_MAX, CheckedCore, Run, run

from teardown_lab.checker.findings import Verdict
from vm_protocol.invariants import Invariant
from vm_protocol.observations import EVENTS, Event
from vm_protocol.ordering import ForEachVcpu, Loop, Ordering
from vm_protocol.scenario import Scenario

WHOLE_RUNS = settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])


def hold_to_its_promises(finished: Run) -> None:
    """What every run ends with, however wrong its ordering is."""
    judgement = finished.judgement
    assert (finished.state.phase, finished.state.outcome) == ("done", "settled")
    assert finished.step_count < STEPS_MAX
    assert judgement.notes == ()
    assert judgement.verdict in (Verdict.SAFE, Verdict.VIOLATED)
    assert judgement.counts.unaccounted == 0
    assert all(violation.explain for violation in judgement.violations)
    assert finished.queues_left() == []


@WHOLE_RUNS
@given(
    ordering=orderings(racy=True),
    scenario=scenarios(racy=True, vcpus_max=5),
    workers=st.integers(1, 3),
)
def test_every_ordering_in_every_scenario_ends_with_a_verdict_and_leaves_nothing_behind(
    ordering: Ordering, scenario: Scenario, workers: int
) -> None:
    finished = run(ordering, scenario, workers)

    hold_to_its_promises(finished)
    ends = [r for r in finished.records if r.event in (Event.VM_FREED, Event.TEARDOWN_STUCK)]
    assert len(ends) == 1
    stuck = ends[0].event == Event.TEARDOWN_STUCK
    broken = {violation.invariant for violation in finished.judgement.violations}
    assert (Invariant.STUCK in broken) == stuck


@settings(WHOLE_RUNS, max_examples=40)
@given(
    ordering=orderings(racy=True),
    scenario=scenarios(racy=True, vcpus_max=3),
    workers=st.integers(1, 2),
)
def test_every_step_of_every_core_can_be_taken_again_and_comes_out_the_same(
    ordering: Ordering, scenario: Scenario, workers: int
) -> None:
    finished = run(ordering, scenario, workers, wrap=CheckedCore)

    hold_to_its_promises(finished)


@settings(WHOLE_RUNS, max_examples=30)
@given(ordering=orderings(racy=True), scenario=scenarios(racy=True), workers=st.integers(1, 3))
def test_a_run_that_is_repeated_gives_the_identical_history(
    ordering: Ordering, scenario: Scenario, workers: int
) -> None:
    first, second = (run(ordering, scenario, workers) for _ in range(2))

    assert first.everything == second.everything
    assert first.judgement == second.judgement


@settings(WHOLE_RUNS, max_examples=40)
@given(ordering=orderings(racy=True), scenario=scenarios(racy=True))
def test_every_record_has_only_the_details_that_its_event_lists(
    ordering: Ordering, scenario: Scenario
) -> None:
    for record in run(ordering, scenario).everything:
        assert set(record.details) <= set(EVENTS[record.event].details)


@settings(WHOLE_RUNS, max_examples=40)
@given(scenario=scenarios(vcpus_max=5), workers=st.integers(1, 5), data=st.data())
def test_with_the_fence_no_order_of_unload_free_and_erase_in_one_pass_touches_freed_memory(
    scenario: Scenario, workers: int, data: st.DataObject
) -> None:
    """A flush reaches the visible only: erased right after its free, nobody is hit."""
    order = data.draw(st.sampled_from(["ascending", "descending"]))
    loop = Loop(
        order="ascending" if order == "ascending" else "descending",
        steps=("clear_async_pf", "unload_mmu", "free_vcpu", "erase_vcpu"),
    )
    ordering = Ordering(
        name="one-pass",
        steps=(
            "stop_background_workers",
            "zap_all_roots",
            ForEachVcpu(for_each_vcpu=loop),
            "free_irqchip",
            "uninit_mmu",
            "vendor_vm_destroy",
        ),
    )

    judgement = run(ordering, scenario, workers).judgement

    assert (judgement.violations, judgement.verdict) == ((), Verdict.SAFE)


@settings(WHOLE_RUNS, max_examples=40)
@given(
    ordering=orderings(racy=True),
    scenario=scenarios(racy=True, vcpus_max=4),
    in_guest=st.sets(st.integers(0, 3)),
    flush_wait=st.sampled_from(["in_guest", "all"]),
)
def test_with_vcpus_in_their_guest_and_flushes_that_wait_runs_end_all_the_same(
    ordering: Ordering, scenario: Scenario, in_guest: set[int], flush_wait: str
) -> None:
    inside = tuple(sorted(vcpu for vcpu in in_guest if vcpu < scenario.vcpus))
    waiting = ordering.model_copy(update={"flush_wait": flush_wait})

    finished = run(waiting, scenario.model_copy(update={"in_guest": inside}), 2)

    hold_to_its_promises(finished)


@settings(WHOLE_RUNS, max_examples=40)
@given(ordering=orderings(racy=True), scenario=scenarios(racy=True), workers=st.integers(1, 3))
def test_a_finished_run_leaves_the_services_empty_and_no_delivery_unsettled(
    ordering: Ordering, scenario: Scenario, workers: int
) -> None:
    finished = run(ordering, scenario, workers)

    manager, _, *rest = (actor.state for actor in finished.services)
    assert dict(manager.vms) == {}
    assert [dict(worker.vcpus) for worker in rest] == [{}] * len(rest)
    of_queues: dict[Event, set[tuple[object, ...]]] = {event: set() for event in Event}
    for record in finished.everything:
        place = (record.actor, record.message_id, record.details.get("queue"))
        of_queues[record.event].add(place)
    settled = of_queues[Event.MESSAGE_ACKED] | of_queues[Event.MESSAGE_REJECTED]
    assert of_queues[Event.MESSAGE_RECEIVED] - settled == set()

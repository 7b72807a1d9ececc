"""Orderings that nobody has seen: both drivers reach a verdict, and the same one if none races."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support.orderings import orderings, scenarios
from support.runs import essence, tear_down

from teardown_lab.experiment.lab import Lab
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

ON_A_BROKER = settings(
    max_examples=40,
    deadline=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.rabbitmq
@ON_A_BROKER
@given(ordering=orderings(), scenario=scenarios())
def test_simulated_and_real_runs_agree_where_nothing_races(
    simulated_lab: Lab,
    rabbit_lab: Lab,
    workdir: Path,
    ordering: Ordering,
    scenario: Scenario,
) -> None:
    simulated, _ = tear_down(simulated_lab, ordering, workdir, scenario)
    real, _ = tear_down(rabbit_lab, ordering, workdir, scenario)

    assert essence(simulated) == essence(real)
    assert all(violation.explain for violation in real.violations)


@pytest.mark.rabbitmq
@ON_A_BROKER
@given(ordering=orderings(racy=True), scenario=scenarios(racy=True))
def test_races_end_with_a_verdict_and_leave_the_services_alive(
    rabbit_lab: Lab, workdir: Path, ordering: Ordering, scenario: Scenario
) -> None:
    judgement, _ = tear_down(rabbit_lab, ordering, workdir, scenario)

    assert str(judgement.verdict) in ("safe", "violated")
    assert judgement.counts.unaccounted == 0
    assert all(violation.explain for violation in judgement.violations)
    assert rabbit_lab.stack is not None
    assert rabbit_lab.stack.answers()

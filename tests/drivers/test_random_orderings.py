"""Orderings that nobody has seen: both drivers reach a verdict, and the same one if none races.

Whatever the ordering left undone, no queue of its VM stays on the broker.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from integration.tools.amqp import left_over
from support.orderings import orderings, scenarios
from support.runs import essence, tear_down

from teardown_lab.checker.judgement import Judgement
from teardown_lab.experiment.lab import Lab
from vm_protocol import topology
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario
from vm_protocol.topology import Mailbox

pytestmark = pytest.mark.slow

ON_A_BROKER = settings(
    max_examples=40,
    deadline=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def queues_left(url: str, judgement: Judgement, scenario: Scenario) -> list[str]:
    """Return what a VM and its client still have on the broker."""
    mailboxes = [Mailbox(judgement.vm, vcpu).name for vcpu in range(scenario.vcpus)]
    return left_over(url, [*mailboxes, topology.client_replies(judgement.vm).name])


@pytest.mark.rabbitmq
@ON_A_BROKER
@given(ordering=orderings(), scenario=scenarios())
def test_simulated_and_real_runs_agree_where_nothing_races(
    simulated_lab: Lab,
    rabbit_lab: Lab,
    amqp_url: str,
    workdir: Path,
    ordering: Ordering,
    scenario: Scenario,
) -> None:
    simulated, _ = tear_down(simulated_lab, ordering, workdir, scenario)
    real, _ = tear_down(rabbit_lab, ordering, workdir, scenario)

    assert essence(simulated) == essence(real)
    assert all(violation.explain for violation in real.violations)
    assert queues_left(amqp_url, real, scenario) == []


@pytest.mark.rabbitmq
@ON_A_BROKER
@given(ordering=orderings(racy=True), scenario=scenarios(racy=True))
def test_races_end_with_a_verdict_and_leave_the_services_alive(
    rabbit_lab: Lab, amqp_url: str, workdir: Path, ordering: Ordering, scenario: Scenario
) -> None:
    judgement, _ = tear_down(rabbit_lab, ordering, workdir, scenario)

    assert str(judgement.verdict) in ("safe", "violated")
    assert judgement.counts.unaccounted == 0
    assert all(violation.explain for violation in judgement.violations)
    assert queues_left(amqp_url, judgement, scenario) == []
    assert rabbit_lab.stack is not None
    assert rabbit_lab.stack.answers()

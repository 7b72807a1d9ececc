"""Operations in an order that nobody has thought of: simulated and real brokers stay in step.

The examples are the same every time; TEARDOWN_HYPOTHESIS=wandering draws new ones. A failure prints
its queues and operations, and Hypothesis the blob that repeats it.
"""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from conformance.live import Live
from conformance.sequences import Plan, SideBySide, plans
from conformance.simulated import Simulated

EXAMPLES = 60
EXAMPLES_LONG = 2_000
PHASES: tuple[Phase, ...] = (Phase.explicit, Phase.reuse, Phase.generate)
if os.environ.get("TEARDOWN_SHRINK"):  # each attempt that fails takes a real broker seconds
    PHASES += (Phase.shrink,)

pytestmark = pytest.mark.slow

CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def run(make: Callable[[], Live], plan: Plan) -> None:
    broker = make()
    try:
        SideBySide(Simulated(broker.version), broker, plan).run()
    finally:
        broker.dispose()


@settings(max_examples=EXAMPLES, phases=PHASES, suppress_health_check=CHECKS)
@given(plan=plans())
def test_a_real_broker_does_what_the_simulated_one_does(
    live: Callable[[], Live], plan: Plan
) -> None:
    run(live, plan)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=EXAMPLES_LONG, phases=PHASES, suppress_health_check=CHECKS)
@given(plan=plans())
def test_a_real_broker_does_so_for_long(live: Callable[[], Live], plan: Plan) -> None:
    run(live, plan)

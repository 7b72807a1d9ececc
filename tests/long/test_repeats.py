"""The same teardown many times on one node: verdicts and counts hold, races are counted."""

from collections import Counter
from pathlib import Path

import pytest
from support.runs import essence, tear_down

from teardown_lab.experiment.lab import Lab
from vm_manager.catalogue import catalogue_entry, catalogue_names

pytestmark = [pytest.mark.long, pytest.mark.rabbitmq, pytest.mark.timeout(1800)]

REPEATS = 30
RACY = [name for name in catalogue_names() if catalogue_entry(name).racy]
STEADY = [name for name in catalogue_names() if not catalogue_entry(name).racy]


@pytest.mark.parametrize("name", STEADY)
def test_thirty_in_a_row_are_alike(rabbit_lab: Lab, workdir: Path, name: str) -> None:
    scenario = catalogue_entry(name).show
    first, _ = tear_down(rabbit_lab, name, workdir, scenario)

    for number in range(1, REPEATS):
        again, _ = tear_down(rabbit_lab, name, workdir, scenario)
        if name == "fenced-parallel-destroy":  # which steps fall into a window varies
            assert essence(again) | {"hazards": None} == essence(first) | {"hazards": None}
        else:
            assert essence(again) == essence(first), f"run {number + 1}"


def test_hidden_first_and_fenced_parallel_destruction_is_safe_in_300_runs(
    rabbit_lab: Lab, workdir: Path
) -> None:
    verdicts: Counter[str] = Counter()
    for _ in range(300):
        judgement, _ = tear_down(rabbit_lab, "fenced-parallel-destroy", workdir)
        verdicts[str(judgement.verdict)] += 1

    assert verdicts == {"safe": 300}


@pytest.mark.parametrize("name", RACY)
def test_the_odds_of_a_race_are_reported(
    rabbit_lab: Lab, workdir: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No count is demanded of a race: the verdict is one of the two, and the odds are printed."""
    verdicts: Counter[str] = Counter()
    for _ in range(REPEATS):
        judgement, _ = tear_down(rabbit_lab, name, workdir)
        verdicts[str(judgement.verdict)] += 1

    with capsys.disabled():
        print(f"\n{name}: {dict(verdicts)} in {REPEATS} runs")
    assert set(verdicts) <= {"safe", "violated"}

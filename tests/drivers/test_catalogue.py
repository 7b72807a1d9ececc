"""One suite, two drivers: every entry of the catalogue shows what its file says."""

from pathlib import Path

import pytest
from support.randomness import seeded
from support.runs import broken, essence, posted, tear_down

from teardown_lab.experiment.lab import Lab
from vm_manager.catalogue import catalogue_entry, catalogue_names
from vm_protocol.scenario import Scenario

SHAPES = [
    {"mmu": "shadow", "roots": "distinct"},
    {"mmu": "shadow", "roots": "shared"},
    {"mmu": "shadow", "roots": "mixed"},
    {"mmu": "tdp"},
    {"avic": True},
    {"nested": (0,)},
    {"mmu": "tdp", "nested": (0,)},
    {"async_pf": 1},
    {"previous_roots": 2},
    {"ticker": False},
]
COLUMNS = [("distinct", "shadow"), ("shared", "shadow"), ("distinct", "tdp")]
UNLOAD_ALL_FIRST = (
    "unload-all-first-wipe-last",
    "unload-all-late-erase-each",
    "vm-state-before-vcpus",
    "unload-all-first-erase-each",
)


@pytest.mark.parametrize("name", catalogue_names())
def test_the_scenario_that_shows_the_point_gives_the_expected_verdict(
    lab: Lab, workdir: Path, name: str
) -> None:
    entry = catalogue_entry(name)
    expected = entry.expected(entry.show)

    judgement, _ = tear_down(lab, name, workdir, entry.show)

    assert expected is not None
    assert str(judgement.verdict) in expected.run
    assert judgement.notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", catalogue_names())
def test_every_scenario_gives_the_expected_verdict(
    simulated_lab: Lab, workdir: Path, name: str
) -> None:
    entry = catalogue_entry(name)
    for n in range(1, 6):
        for shape in SHAPES:
            scenario = Scenario.model_validate({"vcpus": n, **shape})
            expected = entry.expected(scenario)

            judgement, _ = tear_down(simulated_lab, name, workdir, scenario)

            assert expected is not None, scenario
            assert str(judgement.verdict) in expected.run, (scenario, judgement.violations)


@pytest.mark.parametrize("name", catalogue_names())
def test_a_drawn_scenario_gives_the_expected_verdict(lab: Lab, workdir: Path, name: str) -> None:
    generator = seeded(f"catalogue-{name}")
    shape = generator.choice(SHAPES)
    scenario = Scenario.model_validate({"vcpus": generator.randint(1, 8), **shape})
    expected = catalogue_entry(name).expected(scenario)

    judgement, _ = tear_down(lab, name, workdir, scenario)

    assert expected is not None
    assert str(judgement.verdict) in expected.run, (scenario, judgement.violations)


@pytest.mark.parametrize("name", UNLOAD_ALL_FIRST)
@pytest.mark.parametrize(
    ("roots", "mmu"), [("distinct", "shadow"), ("shared", "shadow"), ("distinct", "tdp")]
)
def test_unloading_all_first_posts_n_requests_a_flush(
    lab: Lab, workdir: Path, name: str, roots: str, mmu: str
) -> None:
    n = seeded(f"{name}-{roots}-{mmu}").randint(1, 8)

    judgement, records = tear_down(lab, name, workdir, vcpus=n, roots=roots, mmu=mmu)

    flushes = {("distinct", "shadow"): n, ("shared", "shadow"): 1}.get((roots, mmu), 0)
    assert posted(records, "unload") == [list(range(n))] * flushes
    assert judgement.counts.unload_flush_requests == n * flushes
    assert broken(judgement) == {}
    assert judgement.counts.dead_letters == 0


@pytest.mark.parametrize(
    ("roots", "mmu"), [("distinct", "shadow"), ("shared", "shadow"), ("distinct", "tdp")]
)
def test_stopping_at_a_hole_loses_exactly_the_requests_of_the_table(
    lab: Lab, workdir: Path, roots: str, mmu: str
) -> None:
    n = seeded(f"hole-{roots}-{mmu}").randint(1, 8)
    lost = {("distinct", "shadow"): n * (n - 1) // 2, ("shared", "shadow"): int(n > 1)}

    judgement, _ = tear_down(
        lab, "unload-in-destroy-stop-at-hole", workdir, vcpus=n, roots=roots, mmu=mmu
    )

    expected = lost.get((roots, mmu), 0)
    assert broken(judgement) == ({"lost-request": expected} if expected else {})
    assert judgement.counts.dead_letters == 0


def test_the_2007_loop_hangs_with_two_or_more_vcpus(lab: Lab, workdir: Path) -> None:
    n = seeded("2007").randint(2, 8)

    judgement, _ = tear_down(lab, "zap-all-per-vcpu", workdir, vcpus=n)

    assert broken(judgement) == {"stuck": 1}
    assert [letter.reason for letter in judgement.dead_letters] == ["delivery_limit"]
    assert [str(letter.invariant) for letter in judgement.dead_letters] == ["stuck"]


def test_the_2007_loop_ends_with_one_vcpu(lab: Lab, workdir: Path) -> None:
    judgement, _ = tear_down(lab, "zap-all-per-vcpu", workdir, vcpus=1)

    assert str(judgement.verdict) == "safe"
    assert judgement.dead_letters == ()


def test_a_nested_vcpu_reads_the_freed_irqchip_once(lab: Lab, workdir: Path) -> None:
    nested, _ = tear_down(lab, "vm-state-before-vcpus", workdir, nested=(1,))
    plain, _ = tear_down(lab, "vm-state-before-vcpus", workdir)

    assert broken(nested) == {"vm-state-used-after-free": 1}
    assert broken(plain) == {}


def test_wiping_last_is_safe_with_hazards_and_violated_with_avic(lab: Lab, workdir: Path) -> None:
    plain, _ = tear_down(lab, "unload-all-first-wipe-last", workdir)
    avic, _ = tear_down(lab, "unload-all-first-wipe-last", workdir, avic=True)

    assert str(plain.verdict) == "safe"
    assert {str(each.hazard) for each in plain.hazards} == {"visible-while-freed"}
    assert broken(avic) == {"vm-state-used-after-free": 8}


def test_a_pending_fault_completes_into_the_freed_vcpu(lab: Lab, workdir: Path) -> None:
    judgement, _ = tear_down(lab, "async-pf-not-cleared", workdir, vcpus=3, async_pf=2)

    assert broken(judgement) == {"use-after-free": 6}


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    "name", [name for name in catalogue_names() if not catalogue_entry(name).racy]
)
def test_both_drivers_say_the_same(
    simulated_lab: Lab, rabbit_lab: Lab, workdir: Path, name: str
) -> None:
    n = seeded(f"same-{name}").randint(1, 8)
    show = catalogue_entry(name).show.model_dump() | {"vcpus": n, "ticker": False, "nested": ()}
    scenario = Scenario.model_validate(show)

    simulated, _ = tear_down(simulated_lab, name, workdir, scenario)
    real, _ = tear_down(rabbit_lab, name, workdir, scenario)

    assert essence(simulated) == essence(real)

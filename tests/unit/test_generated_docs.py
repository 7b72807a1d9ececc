"""Pages made from the code equal it; pages written by hand leave none of its words out."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from service_runtime.amqp.publishing import Publishers
from service_runtime.amqp.queues import Queues
from service_runtime.connectivity import Connectivity
from service_runtime.metrics import Metrics, Shown, StateCollector, show_instance
from service_runtime.office import OfficeNumbers
from teardown_lab.checker.findings import HazardName, VacuityReason
from teardown_lab.cli.commands import teardown as main
from teardown_lab.exit_codes import ExitCode
from vcpu_worker import VcpuWorker
from vcpu_worker.gauges import WORKER_GAUGES
from vm_manager import DeadLetterMonitor, VmManager
from vm_manager.gauges import MANAGER_GAUGES, MONITOR_GAUGES
from vm_protocol.actor import Actor
from vm_protocol.invariants import Invariant
from vm_protocol.ordering import LOOP, VCPU_STEPS, VM_STEPS, Ordering
from vm_protocol.scenario import Scenario

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_generated_pages_are_what_the_generator_writes() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr


def exported() -> set[str]:
    """Return the names that the services export, `_created` aside."""
    connectivity = Connectivity(Publishers("any"), Queues(None, False, lambda _: None))
    shown = [
        Shown(Actor(VmManager()), connectivity, MANAGER_GAUGES, OfficeNumbers()),
        Shown(Actor(DeadLetterMonitor()), connectivity, MONITOR_GAUGES),
        Shown(Actor(VcpuWorker("worker-1", 4)), connectivity, WORKER_GAUGES),
    ]
    registry = CollectorRegistry()
    Metrics(registry)
    show_instance(registry, "vm-manager", "manager-1")
    registry.register(StateCollector(shown))
    names = re.findall(r"^# TYPE (\S+) ", generate_latest(registry).decode(), re.MULTILINE)
    return {name for name in names if not name.endswith("_created")}


def test_the_metrics_page_names_what_is_exported_and_nothing_else() -> None:
    named = set(re.findall(r"^\| `(\w+)` ", read("metrics.md"), re.MULTILINE))

    assert named == exported()


def test_the_page_on_orderings_names_every_word_of_the_language() -> None:
    page = read("orderings.md")
    keys = {name for name, field in Ordering.model_fields.items() if not field.exclude}
    words = {*VM_STEPS, *VCPU_STEPS, LOOP, *keys} - {"steps"}
    words |= {str(word) for words in (Invariant, HazardName, VacuityReason) for word in words}

    assert {word for word in words if f"`{word}`" not in page} == set()


@pytest.mark.parametrize("name", Scenario.model_fields)
def test_the_page_on_orderings_has_the_default_of_every_scenario_field(name: str) -> None:
    default = Scenario().model_dump(mode="json")[name]
    shown = default if isinstance(default, str) else json.dumps(default)

    assert f"| `{name}` | `{shown}` |" in read("orderings.md")


def test_commands_that_are_said_not_to_be_built_are_not_there() -> None:
    _, _, missing = read("architecture.md").partition("## What is not built yet")
    named = set(re.findall(r"`teardown (\w+)`", missing))

    assert named & (set(main.commands) - {"check"}) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_other_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    inside = {target for target in targets if target and "://" not in target}

    assert {target for target in inside if not (page.parent / target).exists()} == set()


def test_pages_that_the_code_names_exist() -> None:
    named: set[str] = set()
    for folder in ("services", "shared", "teardown_lab", "deploy"):
        for file in (ROOT / folder).rglob("*.py"):
            named |= set(re.findall(r"docs/[\w./-]+\.md", file.read_text(encoding="utf-8")))

    assert {page for page in named if not (ROOT / page).is_file()} == set()


def test_the_readme_lists_every_exit_code() -> None:
    _, _, table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Exit codes")
    rows = re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE)

    assert sorted(int(code) for row in rows for code in row.split(",")) == sorted(ExitCode)

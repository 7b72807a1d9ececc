"""The alert rules: tried by promtool, each with a case for and against it and a runbook."""

import re
import subprocess
from typing import Any

import pytest
from observability.tools.files import (
    ALERTS,
    ALERTS_TEST,
    RUNBOOKS,
    SCRAPES,
    read_yaml,
    rules,
)
from observability.tools.prometheus import program

from vm_protocol import limits

SEVERITIES = {"critical", "warning"}
PAGES_AT = "{{ with $externalLabels.runbooks }}{{ . }}{{ else }}docs/runbooks{{ end }}"
"""Where the runbooks are served, if the deployment says so."""

HEADINGS = ["## What it means", "## How to look", "## What to do"]


def promtool(*arguments: object) -> str:
    """Run promtool; return what it says, and fail if it is not content."""
    command = [program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def name_of(rule: dict[str, Any]) -> str:
    return str(rule["alert"])


@pytest.mark.slow
def test_promtool_tries_every_case() -> None:
    assert "SUCCESS" in promtool("test", "rules", ALERTS_TEST)


def test_promtool_accepts_the_rules_and_the_scrape_settings() -> None:
    promtool("check", "rules", ALERTS)
    promtool("check", "config", SCRAPES)


@pytest.mark.parametrize("rule", rules(), ids=name_of)
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(
    rule: dict[str, Any],
) -> None:
    cases = [
        bool(case["exp_alerts"])
        for test in read_yaml(ALERTS_TEST)["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == rule["alert"]
    ]

    assert set(cases) == {True, False}


@pytest.mark.parametrize("rule", rules(), ids=name_of)
def test_an_alert_says_how_bad_it_is_and_what_to_read(rule: dict[str, Any]) -> None:
    labels, annotations = rule["labels"], rule["annotations"]

    assert labels["severity"] in SEVERITIES
    assert labels["component"] == "teardown"
    assert annotations["runbook_url"] == f"{PAGES_AT}/{rule['alert']}.md"
    assert set(annotations) == {"summary", "description", "runbook_url"}
    page = (RUNBOOKS / f"{rule['alert']}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {rule['alert']}\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == HEADINGS


def test_every_runbook_belongs_to_an_alert() -> None:
    assert {file.stem for file in RUNBOOKS.iterdir()} == set(map(name_of, rules()))


def test_a_mailbox_grows_from_what_a_worker_holds_of_it() -> None:
    (rule,) = (rule for rule in rules() if rule["alert"] == "MailboxGrows")

    assert re.findall(r"_lag > (\d+)", rule["expr"]) == [str(limits.MAILBOX_PREFETCH)]

"""The pytest plugin: a RabbitMQ, services on it, and teardowns that are judged in one call.

pytest loads this module in every run where the package is installed, used or not. So it imports
nothing but pytest; what the fixtures do stands in `teardown_lab.testing`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    import pluggy

    from teardown_lab.experiment.lab import Lab
    from teardown_lab.testing import RunOrdering

REQUIRE_VARIABLE = "TEARDOWN_REQUIRE_BROKER"
"""Set, it turns "no broker here" from a skip into a failure: CI must not pass by skipping."""

_SIMULATED = "simulated"
_SECTION = "verdict"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; `--teardown-broker` beats the ini file."""
    values = "auto, private, container, simulated, or an amqp:// URL"
    parser.addini("teardown_broker", f"broker of the fixtures: {values}", default="auto")
    parser.addini("teardown_workers", "vcpu-worker processes of teardown_stack", default="2")
    parser.addini("teardown_managers", "vm-manager processes of teardown_stack", default="1")
    parser.addini("teardown_vcpus", "vCPUs of the largest VM on teardown_stack", default="16")
    group = parser.getgroup("teardown", "teardown-lab")
    group.addoption("--teardown-broker", metavar="BROKER", help=f"{values} (the ini file's if not)")


def _choice(config: pytest.Config) -> str:
    return str(config.getoption("--teardown-broker") or config.getini("teardown_broker"))


@pytest.fixture(scope="session")
def teardown_broker(pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of a real RabbitMQ; what was started for it is removed after the session.

    With `auto`, tests are skipped where there is none.
    """
    from teardown_lab.testing import BrokerUnavailable, NoBroker, broker_for_tests

    choice = _choice(pytestconfig)
    if choice == _SIMULATED:
        pytest.skip("teardown_broker is `simulated`, and this test needs a real one")
    try:
        with broker_for_tests(choice) as url:
            yield url
    except NoBroker as none:
        if os.environ.get(REQUIRE_VARIABLE):
            pytest.fail(f"{none}, and {REQUIRE_VARIABLE} asks for one", pytrace=False)
        pytest.skip(str(none))
    except BrokerUnavailable as error:
        pytest.fail(f"teardown_broker = {choice}: {error}", pytrace=False)


@pytest.fixture(scope="session")
def teardown_stack(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A vm-manager and vcpu-workers that run on `teardown_broker`, started once for all tests.

    `teardown_stack.stack.metrics_urls` tells where each serves its metrics.
    """
    from teardown_lab.experiment.lab import LabOptions, open_lab

    config = request.config
    simulated = _choice(config) == _SIMULATED
    options = LabOptions(
        broker=_SIMULATED if simulated else request.getfixturevalue("teardown_broker"),
        workers=_number(config, "teardown_workers"),
        vcpus=_number(config, "teardown_vcpus"),
        managers=_number(config, "teardown_managers"),
    )
    with open_lab(options, lambda _: None) as lab:
        if lab.neighbours:
            pytest.fail(lab.neighbours, pytrace=False)
        yield lab


@pytest.fixture
def run_ordering(
    request: pytest.FixtureRequest, teardown_stack: Lab, tmp_path: Path
) -> RunOrdering:
    """Tears a VM down: `run_ordering(name or path or YAML text, vcpus=4, ...)` returns an Outcome.

    The report of each run is shown once with a test that fails: in its message if it stands there,
    else in a section of its own.
    """
    from teardown_lab.testing import RunOrdering

    node = request.node
    return RunOrdering(
        teardown_stack,
        workers=_number(request.config, "teardown_workers"),
        vcpus_max=_number(request.config, "teardown_vcpus"),
        root=request.config.rootpath,
        folder=tmp_path,
        # pytest prints a section with "teardown" in its name again for each phase of a test.
        tell=lambda text: node.add_report_section("call", _SECTION, text),
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, pluggy.Result[pytest.TestReport], None]:
    """Leave out reports of runs that the failure's own message has already, line for line."""
    made = yield
    report = made.get_result()
    if report.when == "call" and report.failed:
        shown = _bare(report.longreprtext)
        report.sections = [
            (name, text)
            for name, text in report.sections
            if _SECTION not in name or _bare(text) not in shown
        ]


def _bare(text: str) -> str:
    """Return a text without what pytest puts before its lines, and without blank ones."""
    lines = (line.removeprefix("E").strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _number(config: pytest.Config, name: str) -> int:
    text = str(config.getini(name))
    if not text.isdecimal() or int(text) < 1:
        raise pytest.UsageError(f"{name} is {text!r}: write a number from 1 on")
    return int(text)

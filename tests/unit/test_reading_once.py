"""A run's history is parsed once and gathered once, for the verdict and the report."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from click.testing import CliRunner

from teardown_lab.checker.gathering import gather
from teardown_lab.checker.history import load_history
from teardown_lab.cli.commands import teardown

WATCHED = {each.__code__: each.__name__ for each in (load_history, gather)}


def test_a_run_with_a_report_reads_its_history_once(tmp_path: Path) -> None:
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in WATCHED:
            counted[WATCHED[frame.f_code]] += 1

    words = "run unload-in-destroy-wipe-last --vcpus 2 --broker simulated --history"
    arguments = [*words.split(), str(tmp_path / "history.jsonl")]
    sys.setprofile(count)
    try:
        ran = CliRunner().invoke(teardown, arguments)
    finally:
        sys.setprofile(None)

    assert "BUG: KASAN" in ran.output
    assert counted == {"load_history": 1, "gather": 1}

"""The independent judge of a teardown: reads a history, and nothing else.

It imports `vm_protocol` only and no service's code. `load_history` reads a file, `judge` answers,
`Settlement` tells while a run goes on when its history is complete.
"""

from teardown_lab.checker.findings import (
    Counts,
    DeadLetter,
    Hazard,
    HazardName,
    Seconds,
    Takeover,
    Vacuity,
    VacuityReason,
    Verdict,
    Violation,
)
from teardown_lab.checker.history import History, HistoryError, load_history
from teardown_lab.checker.judgement import Judgement, ResultObject
from teardown_lab.checker.settlement import Settlement
from teardown_lab.checker.verdict import exit_code, judge
from vm_protocol.invariants import Invariant

__all__ = [
    "Counts",
    "DeadLetter",
    "Hazard",
    "HazardName",
    "History",
    "HistoryError",
    "Invariant",
    "Judgement",
    "ResultObject",
    "Seconds",
    "Settlement",
    "Takeover",
    "Vacuity",
    "VacuityReason",
    "Verdict",
    "Violation",
    "exit_code",
    "judge",
    "load_history",
]

"""What the dashboard shows of take-overs and lost workers (docs/recovery.md); data only."""

from typing import Final

from boards.panels import Panel, Query, Question, increase, named, rate


def _by_name(expr: str) -> tuple[Query, ...]:
    return (Query(f"sum by (name) ({named(expr)})", "{{name}}"),)


RECOVERY: Final = Question(
    "Recovery: who is active, and what was lost?",
    (
        Panel(
            "Elected manager",
            "1 while a manager is the active one. At any moment it should be one; the others stand "
            "by, and one of them takes over.",
            _by_name("teardown_manager_elected"),
        ),
        Panel(
            "Take-overs",
            "Elections that followed another manager's end, or the end of the manager's own "
            "connection. Each is in the history as `manager.took-over`.",
            _by_name(increase("teardown_manager_takeovers_total")),
            "bars",
        ),
        Panel(
            "Hosts lost",
            "Workers that VMs have lost, once for each of their VMs: `silent` ones were not heard "
            "of for 30 s, `drained` ones were stopped on purpose.",
            (
                Query(
                    f"sum by (reason) ({increase('teardown_hosts_lost_total')})",
                    "{{reason}}",
                ),
            ),
            "bars",
        ),
        Panel(
            "Recovery",
            "How long each manager took at its last election to read the log and fold it; nothing "
            "else is done meanwhile. 0: it was never elected. More than 5 s are an alert.",
            _by_name("teardown_recovery_seconds"),
            unit="s",
            levels=((0, "green"), (5, "red")),
        ),
        Panel(
            "Entries folded",
            "Entries that each manager folded at its last election: those since no VM lived.",
            _by_name("teardown_recovery_entries"),
        ),
        Panel(
            "Log entries",
            "Entries written to teardown.progress; each holds inputs that were handled together.",
            _by_name(rate("teardown_log_entries_total")),
            unit="ops",
        ),
    ),
)

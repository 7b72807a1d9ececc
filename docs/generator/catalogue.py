"""docs/catalogue.md, from services/vm_manager/orderings/*.yaml."""

import json
from typing import Any

from generator.markdown import code, heading, sentence, table
from vm_manager.catalogue import Change, Entry, catalogue_entry, catalogue_names
from vm_protocol.ordering import LOOP, ForEachVcpu, Loop, Ordering
from vm_protocol.scenario import Scenario

SETTINGS = ("flush_wait", "fence", "array")
COMMIT_PAGE = "https://git.kernel.org/torvalds/c/"

INTRODUCTION = """
The orderings that ship with the lab, in the order of kernel history; after them come mutants and
an ordering of this project's own. `teardown orderings show NAME` prints an entry's file,
`teardown orderings diff A B` what lies between two. The language is described in
[orderings.md](orderings.md).

*Expected* says which verdicts a run may have and what an exploration of all schedules must find;
the first row whose scenario fits counts. A racy entry may end either way in a run.
"""


def page() -> str:
    """Return the page's text."""
    entries = [catalogue_entry(name) for name in catalogue_names()]
    lines = heading("Catalogue of orderings", "`services/vm_manager/orderings/*.yaml`")
    lines += [*INTRODUCTION.strip().splitlines(), ""]
    lines += table(["Ordering", "Kernels", "In one line"], map(_summary, entries))
    for entry in entries:
        lines += _entry(entry)
    return "\n".join(lines)


def _summary(entry: Entry) -> list[str]:
    ordering = entry.ordering
    versions = ordering.kernel.versions if ordering.kernel else ""
    return [f"[{ordering.name}](#{ordering.name})", versions, ordering.title]


def _entry(entry: Entry) -> list[str]:
    ordering = entry.ordering
    lines = [f"## {ordering.name}", "", f"**{sentence(ordering.title)}** {entry.explain}", ""]
    lines += _provenance(entry)
    lines += ["```yaml", *_steps(ordering), "```", ""]
    changed = _changed_scenario(entry.show)
    lines += [f"Shown by `teardown demo` with {code([changed])}.", ""] if changed else []
    lines += table(
        ["Scenario", "Expected of a run", "of an exploration"],
        (
            [_scenario(each.when) or "any other", " or ".join(each.run), each.explore]
            for each in entry.expect
        ),
    )
    return lines


def _provenance(entry: Entry) -> list[str]:
    kernel = entry.ordering.kernel
    lines = []
    if kernel is not None:
        made = f", made by {_commit(kernel.commit)}" if kernel.commit else ""
        lines.append(f"- Kernels: {kernel.versions}{made}")
    if entry.after is not None:
        lines.append(f"- Changed against [{entry.after}](#{entry.after}):")
        lines += [f"  - {code(change.steps)}: {_change(change)}" for change in entry.changes]
    if entry.racy:
        lines.append("- Racy: whether a run shows the fault depends on its timing.")
    return [*lines, ""] if lines else []


def _change(change: Change) -> str:
    return f"{change.what} ({_commit(change.commit)})" if change.commit else change.what


def _commit(commit: str) -> str:
    return f"[{commit[:12]}]({COMMIT_PAGE}{commit})"


def _steps(ordering: Ordering) -> list[str]:
    """Return the settings that are not the defaults, and the steps, as in a file."""
    lines = []
    for name in SETTINGS:
        value = getattr(ordering, name)
        if value != Ordering.model_fields[name].default:
            lines.append(f"{name}: {str(value).lower()}")
    lines.append("steps:")
    for step in ordering.steps:
        lines.append(f"  - {_loop(step.for_each_vcpu) if isinstance(step, ForEachVcpu) else step}")
    return lines


def _loop(loop: Loop) -> str:
    steps = f"[{', '.join(loop.steps)}]"
    if (loop.order, loop.parallel) == ("ascending", 1):
        return f"{LOOP}: {steps}"
    options = [] if loop.order == "ascending" else [f"order: {loop.order}"]
    options += [] if loop.parallel == 1 else [f"parallel: {loop.parallel}"]
    return f"{LOOP}: {{{', '.join([*options, f'steps: {steps}'])}}}"


def _scenario(fields: dict[str, Any]) -> str:
    return code(f"{name}: {_value(value)}" for name, value in fields.items())


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _changed_scenario(show: Scenario) -> str:
    """Return the fields that the showing scenario sets, as in a scenario's file."""
    default = Scenario().model_dump(mode="json")
    fields = show.model_dump(mode="json").items()
    return ", ".join(f"{name}: {_value(v)}" for name, v in fields if v != default[name])

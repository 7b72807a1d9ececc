"""A judgement as text for people: the verdict, what broke, the evidence, the way on."""

from teardown_lab.checker.facts import Facts
from teardown_lab.checker.findings import LostHost, Takeover, Violation
from teardown_lab.checker.judgement import Judgement
from teardown_lab.report.kasan import kasan_report

_SHOWN = 8


def describe(judgement: Judgement, facts: Facts, *, verbose: bool = False) -> str:
    """Return the report of one run; `verbose` adds every violation, report and whole chain."""
    lines = [_headline(judgement), ""]
    lines += [f"  {line}" for line in _facts(judgement)]
    lines += _violations(judgement.violations, None if verbose else _SHOWN)
    lines += [""] if judgement.hazards and not judgement.violations else []
    lines += [f"hazard: {each.hazard}{_of_vcpu(each.vcpu)}" for each in judgement.hazards]
    lines += [_lost(each) for each in judgement.lost_hosts]
    lines += [f"note: {note}" for note in judgement.notes]
    report = (
        kasan_report(judgement, facts, whole_chains=True)
        if verbose
        else kasan_report(judgement, facts, reports_max=1)
    )
    if report:
        lines += ["", report.rstrip("\n"), ""]
    lines += [] if report else [""]
    lines.append(f"history: {facts.history.path}")
    return "\n".join(lines)


def _of_vcpu(vcpu: int | None) -> str:
    return "" if vcpu is None else f" of vCPU {vcpu}"


def _lost(host: LostHost) -> str:
    what = "was silent for too long" if host.reason == "silent" else "ended before its vCPUs"
    vcpus = ", ".join(map(str, host.vcpus))
    return (
        f"lost host: {host.worker} {what}; the memory of its vCPUs ({vcpus}) is not judged, the "
        "rest of the teardown is"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _headline(judgement: Judgement) -> str:
    scenario = judgement.scenario
    shape = ", ".join(
        f"{name} {scenario[name]}" for name in ("vcpus", "mmu", "roots") if name in scenario
    )
    return f"{judgement.ordering}: {str(judgement.verdict).upper()}  ({shape}; {judgement.broker})"


def _facts(judgement: Judgement) -> list[str]:
    counts = judgement.counts
    facts = [
        f"{counts.flush_broadcasts} TLB flushes, {counts.flush_deliveries} deliveries: "
        f"{counts.flush_acks} acknowledged; {_counted(counts.dead_letters, 'dead letter')} in all",
        f"{counts.unload_flush_requests} requests posted by flushes that unloads raised",
    ]
    if judgement.vacuity is not None:
        facts.append(f"{judgement.vacuity.text} ({judgement.vacuity.why})")
    facts += [_takeover(each) for each in judgement.takeovers]
    if judgement.stale_records:
        count = _counted(judgement.stale_records, "record")
        facts.append(f"{count} of managers that had lost their office: no evidence")
    seconds = judgement.seconds
    if seconds.create is not None and seconds.teardown is not None:
        facts.append(f"created in {seconds.create:.3f} s, torn down in {seconds.teardown:.3f} s")
    return facts


def _takeover(takeover: Takeover) -> str:
    again = takeover.repeated
    done = f"{again} {'entry' if again == 1 else 'entries'}" if again else "nothing"
    return (
        f"{takeover.by} took over from {takeover.predecessor} after entry {takeover.entry} of its "
        f"log; performed again: {done}"
    )


def _violations(violations: tuple[Violation, ...], shown_max: int | None) -> list[str]:
    lines = [""] if violations else []
    shown = violations[:shown_max]
    lines += [f"{violation.invariant}: {violation.explain}" for violation in shown]
    if len(shown) < len(violations):
        lines.append(f"... and {len(violations) - len(shown)} more; --verbose shows them all")
    return lines

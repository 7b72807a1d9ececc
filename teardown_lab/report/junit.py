"""A judgement as a JUnit file: one test case, failed if violated, an error if inconclusive."""

from xml.etree import ElementTree

from teardown_lab.checker.findings import Verdict
from teardown_lab.checker.judgement import Judgement


def junit_xml(judgement: Judgement, *, strict: bool = False) -> str:
    """Return the text of the file; with `strict`, hazards fail the case."""
    failed = judgement.verdict is Verdict.VIOLATED or (strict and bool(judgement.hazards))
    unclear = not failed and judgement.verdict is Verdict.INCONCLUSIVE
    seconds = judgement.seconds.teardown or 0.0
    suite = ElementTree.Element(
        "testsuite",
        name="teardown",
        tests="1",
        failures=str(int(failed)),
        errors=str(int(unclear)),
        time=f"{seconds:.3f}",
    )
    case = ElementTree.SubElement(
        suite, "testcase", classname="teardown", name=judgement.ordering, time=f"{seconds:.3f}"
    )
    found = [f"{each.invariant}: {each.explain}" for each in judgement.violations]
    found += [f"hazard {each.hazard} of vCPU {each.vcpu}" for each in judgement.hazards]
    if failed:
        element = ElementTree.SubElement(case, "failure", message=str(judgement.verdict))
        element.text = "\n".join(found)
    elif unclear:
        element = ElementTree.SubElement(case, "error", message=str(judgement.verdict))
        element.text = "\n".join(judgement.notes)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"

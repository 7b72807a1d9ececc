"""docs/broker-rules.md is what the table of rules says, and each rule has its test."""

import ast
from pathlib import Path

from support.golden import IS_WRITING

from conformance.rules import all_rules, page

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "broker-rules.md"
NO_RULES = {
    "test_our_queues.py",
    "test_random_sequences.py",
    "test_rules_page.py",
    "test_simulator.py",
}


def names_of_tests() -> list[str]:
    return [
        node.name
        for file in sorted(HERE.glob("test_*.py"))
        if file.name not in NO_RULES
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def test_every_rule_has_its_test_and_every_test_its_rule() -> None:
    assert sorted(rule.test for rule in all_rules()) == sorted(names_of_tests())


def test_rules_that_differ_say_so_for_each_version() -> None:
    assert {len(rule.differs) for rule in all_rules()} == {0, 3}


def test_the_page_is_what_the_table_says() -> None:
    if IS_WRITING:
        PAGE.write_text(page(), encoding="utf-8")

    assert PAGE.read_text(encoding="utf-8") == page(), "write it: TEARDOWN_GOLDEN=write"

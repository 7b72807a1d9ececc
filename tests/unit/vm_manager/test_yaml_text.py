"""YAML that is wrong, hostile or merely huge: one error, with its place, at once."""

import contextlib
import time
from collections.abc import Callable

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from vm_manager.yaml_text import OrderingError, load
from vm_protocol import limits


def error_of(text: str) -> str:
    with pytest.raises(OrderingError) as caught:
        load(text, "f.yaml")
    assert str(caught.value).startswith("f.yaml:{}:{}: ".format(*caught.value.place))
    return str(caught.value)


def test_data_and_the_place_of_every_part_and_key() -> None:
    located = load("name: a\nsteps:\n  - x\n  - {y: [1, true, null, 1.5]}\n", "f.yaml")

    assert located.data == {"name": "a", "steps": ["x", {"y": [1, True, None, 1.5]}]}
    assert located.place(("steps", 1, "y", 2)) == (4, 19)
    assert located.place(("steps", 1, "y", 9)) == (4, 9)
    assert located.keys["steps", 1, "y"] == (4, 6)


def test_a_date_is_a_word() -> None:
    assert load("[2001-01-01, 2001-99-99]", "f.yaml").data == ["2001-01-01", "2001-99-99"]


WRONG = {
    "": "f.yaml:1:1: the file is empty",
    "# only a comment\n": "f.yaml:1:1: the file is empty",
    "a: 1\nb: [": "f.yaml:2:5: not valid YAML: ",
    "a: 1\n\tb: 2": "f.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token",
    "a: 1\n---\nb: 2": "f.yaml:2:1: not valid YAML: but found another document",
    "a: 1\nb: \x00": "f.yaml:2:4: not valid YAML: special characters are not allowed",
    "a: 1\nb: 2\na: 3": "f.yaml:3:1: 'a' stands here a second time",
    "? [x]\n: 1": "f.yaml:1:3: a key is a word",
    "1: a": "f.yaml:1:1: a key is a word",
    "<<: {a: 1}": "f.yaml:1:1: a key is a word",
    "a: !!python/object/apply:os.system [ls]": "f.yaml:1:4: a value of type 'python/object/ap",
    "!!python/object:x.Y {a: 1}": "f.yaml:1:1: a value of type 'python/object:x.Y' has no use here",
    "a: !!python/tuple [1]": "f.yaml:1:4: a value of type 'python/tuple' has no use here",
    "a: !!set {b}": "f.yaml:1:4: a value of type 'set' has no use here",
    "a: !!binary aGk=": "f.yaml:1:4: a value of type 'binary' has no use here",
    "a: !local b": "f.yaml:1:4: a value of type '!local' has no use here",
    "a: !!bool maybe": "f.yaml:1:4: 'maybe' is no value of type 'bool'",
    "a: !!int seven": "f.yaml:1:4: 'seven' is no value of type 'int'",
    "a: 0x_": "f.yaml:1:4: '0x_' is no value of type 'int'",
    "a: " + "9" * 5000: "f.yaml:1:4: a value of type 'int' has at most 40 characters",
    "a: 1" + ":59" * 5000: "f.yaml:1:4: a value of type 'int' has at most 40 characters",
    'a: "\\ud800"': "f.yaml:1:4: an escape that stands for no character",
    "a: &x [1]\nb: *x": "f.yaml:2:4: not valid YAML: aliases such as *x are not used here",
    "&x [*x]": "f.yaml:1:5: not valid YAML: aliases such as *x are not used here",
    "[" * 17: "f.yaml:1:17: not valid YAML: nested deeper than 16 levels",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: repr(text[:24]))
def test_an_error_names_file_line_column_and_what_is_wrong(text: str) -> None:
    assert error_of(text).startswith(WRONG[text])


def test_a_billion_laughs_are_refused_before_they_are_told() -> None:
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]

    assert "aliases such as *a0 are not used here" in error_of("\n".join(lines))


HUGE = {
    "lists": "[" * 200_000,
    "dashes": "- " * 100_000,
    "questions": "? " * 100_000,
    "keys": "a: [" * 50_000,
    "items": "- a\n" * 50_000,
    "flow": "[" + "a," * 100_000,
    "quote": "'" + "a\n" * 100_000,
    "noise": "%@`\x80{" * 40_000,
    "word": "a" * 200_000,
}
YARDSTICKS_MAX = 5
"""Junk takes up to 2.5 times as long as PyYAML takes to scan a plain list of the same length."""


def seconds_of(work: Callable[[], object]) -> float:
    began = time.process_time()
    with contextlib.suppress(OrderingError):
        work()
    return time.process_time() - began


@pytest.mark.parametrize("cut", [200_000, limits.ORDERING_FILE_CHARACTERS_MAX])
@pytest.mark.parametrize("kind", HUGE)
def test_junk_of_any_size_is_refused_quickly(kind: str, cut: int) -> None:
    """In proportion to its length: a reader without bounds takes some hundred times as long."""
    plain = "- a\n" * (limits.ORDERING_FILE_CHARACTERS_MAX // 4)

    yardstick = seconds_of(lambda: list(yaml.scan(plain)))
    took = seconds_of(lambda: load(HUGE[kind][:cut], "f.yaml"))

    assert took < YARDSTICKS_MAX * yardstick


@given(text=st.text(max_size=200) | st.text("[]{}:-?&*!|>'\"%@#,ab1 \n\t~=<", max_size=200))
@example("!!int")
@example("!!float .")
@example("!!null x")
@example("=")
@example("'")
def test_whatever_is_written_only_an_ordering_error_is_raised(text: str) -> None:
    line = 1
    try:
        load(text, "f.yaml")
    except OrderingError as error:
        line = error.place[0]

    assert 1 <= line <= text.count("\n") + len(text.splitlines()) + 2

"""Orderings as files: reading one, with line and column in its errors, and the shipped catalogue.

`docs/orderings.md` tells the language to users.
"""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vm_manager.kernel_words import step_meant
from vm_manager.yaml_text import Located, OrderingError, YamlPath, load
from vm_protocol import limits
from vm_protocol.ordering import LOOP, VCPU_STEPS, VM_STEPS, Loop, Ordering
from vm_protocol.scenario import Scenario

_Model = TypeVar("_Model", bound=BaseModel)
VerdictName = Literal["safe", "violated", "inconclusive"]
_OUTER_WORDS = (*VM_STEPS, LOOP)
_SHOWN_CHARACTERS: Final = 80
"""How much of a wrong value an error repeats."""

_LINES: Final = "lines"
"""What an ordering knows of its file; nobody writes it."""

_ENTRY_KEYS = ("expect", "show", "explain", "racy", "after", "changes")


class Expectation(BaseModel):
    """The verdicts that a scenario may have: of runs, and of the exploration."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    when: dict[str, Any] = Field(default_factory=dict)
    run: Annotated[tuple[VerdictName, ...], Field(min_length=1)]
    explore: VerdictName


class Change(BaseModel):
    """What an entry changed against the one it comes after: which steps, by which commit."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    steps: Annotated[tuple[str, ...], Field(min_length=1)]
    what: str
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{12,40}$")] | None = None


class _Extras(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    expect: tuple[Expectation, ...] = ()
    show: dict[str, Any] = Field(default_factory=dict)
    explain: str = ""
    racy: bool = False
    after: str | None = None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """An ordering's file: the ordering itself, what to expect of it, how to show its point.

    `racy` runs may end either way; `after` names the entry that `changes` are told against.
    """

    ordering: Ordering
    expect: tuple[Expectation, ...]
    show: Scenario
    explain: str
    racy: bool
    after: str | None
    changes: tuple[Change, ...]
    text: str

    def expected(self, scenario: Scenario) -> Expectation | None:
        """Return what is expected in a scenario: the first match, None when nothing matches."""
        fields = scenario.model_dump(mode="json")
        for expectation in self.expect:
            if all(_matches(fields[name], value) for name, value in expectation.when.items()):
                return expectation
        return None


def _matches(actual: Any, wanted: Any) -> bool:
    """Compare a scenario's field; `any` stands for a list or number that is not empty or zero."""
    return bool(actual) if wanted == "any" else bool(actual == wanted)


def read_ordering(text: str, source: str) -> Entry:
    """Return the entry that a file's text describes.

    Raises:
        OrderingError: Names file, line, column, and the valid words.
    """
    located = load(text, source)
    if not isinstance(located.data, dict):
        raise located.error((), "an ordering is a mapping with `name` and `steps`")
    data = dict(located.data)
    extras = _validate(_Extras, {k: data.pop(k) for k in _ENTRY_KEYS if k in data}, located)
    if _LINES in data:
        raise located.key_error((_LINES,), _unknown_key(_LINES, Ordering, ()))
    steps = _steps(located, data.get("steps"))
    lines = _lines(located, data["steps"])[: limits.STEPS_MAX]
    ordering = _validate(Ordering, {**data, "steps": steps, _LINES: lines}, located)
    show = _validate(Scenario, extras.show, located, ("show",))
    _check_expectations(located, extras.expect)
    return Entry(
        ordering=ordering,
        expect=extras.expect,
        show=show,
        explain=extras.explain.strip(),
        racy=extras.racy,
        after=extras.after,
        changes=extras.changes,
        text=text,
    )


def read_scenario(text: str, source: str) -> Scenario:
    """Return the scenario that a file's text describes.

    Raises:
        OrderingError: Names file, line, column, and the valid words.
    """
    located = load(text, source)
    if not isinstance(located.data, dict):
        raise located.error((), "a scenario is a mapping, such as `vcpus: 4`")
    return _validate(Scenario, located.data, located)


def catalogue_names() -> tuple[str, ...]:
    """Return the names of the shipped orderings, in the order of kernel history."""
    text = _folder().joinpath("index.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


@cache
def catalogue_entry(name: str) -> Entry:
    """Return a shipped entry.

    Raises:
        KeyError: There is none of that name.
    """
    if name not in catalogue_names():
        raise KeyError(name)
    file = _folder().joinpath(f"{name}.yaml")
    return read_ordering(file.read_text(encoding="utf-8"), f"{name}.yaml")


def _folder() -> Any:
    return resources.files("vm_manager").joinpath("orderings")


def _steps(located: Located, steps: Any) -> list[Any]:
    """Return the steps with every loop spelled out; check each word by its place."""
    if not isinstance(steps, list) or not steps:
        raise located.error(("steps",), f"`steps` is a list of {_words(_OUTER_WORDS)}")
    spelled: list[Any] = []
    for index, step in enumerate(steps):
        path: YamlPath = ("steps", index)
        if isinstance(step, dict) and set(step) == {LOOP}:
            spelled.append({LOOP: _loop(located, (*path, LOOP), step[LOOP])})
        elif isinstance(step, str):
            _check_word(located, path, step, _OUTER_WORDS, "VM step", VCPU_STEPS)
            if step == LOOP:
                raise located.error(path, f"`{LOOP}` needs its steps: `{LOOP}: [free_vcpu]`")
            spelled.append(step)
        else:
            raise located.error(path, f"a step is one of {_words(_OUTER_WORDS)}")
    return spelled


def _lines(located: Located, steps: list[Any]) -> list[int]:
    """Return the line of each step, those of a loop one by one."""
    paths: list[YamlPath] = []
    for index, step in enumerate(steps):
        path: YamlPath = ("steps", index)
        if isinstance(step, dict):
            loop = step[LOOP]
            inner: YamlPath = (*path, LOOP) if isinstance(loop, list) else (*path, LOOP, "steps")
            names = loop if isinstance(loop, list) else loop["steps"]
            paths += [(*inner, number) for number in range(len(names))]
        else:
            paths.append(path)
    return [located.place(path)[0] for path in paths]


def _loop(located: Located, path: YamlPath, loop: Any) -> dict[str, Any]:
    spelled = {"steps": loop} if isinstance(loop, list) else loop
    where = path if isinstance(loop, list) else (*path, "steps")
    if not isinstance(spelled, dict) or not isinstance(spelled.get("steps"), list):
        raise located.error(path, f"`{LOOP}` is a list of steps, or {{order, parallel, steps}}")
    if not spelled["steps"]:
        raise located.error(where, f"`{LOOP}` has no step; valid are {_words(VCPU_STEPS)}")
    for index, step in enumerate(spelled["steps"]):
        if not isinstance(step, str):
            raise located.error((*where, index), f"a vCPU step is one of {_words(VCPU_STEPS)}")
        _check_word(located, (*where, index), step, VCPU_STEPS, "vCPU step", VM_STEPS)
    loop_model = _validate(Loop, spelled, located, path)
    return loop_model.model_dump(mode="json")


def _check_word(
    located: Located,
    path: YamlPath,
    word: str,
    valid: tuple[str, ...],
    kind: str,
    other: tuple[str, ...],
) -> None:
    if word in valid:
        return
    side = "outside" if kind == "vCPU step" else "inside"
    if word in other:
        raise located.error(path, f"`{word}` belongs {side} {LOOP}; here valid: {_words(valid)}")
    hint = _meant_by(word, valid, side)
    raise located.error(path, f"unknown {kind} `{word}`: {hint}valid are {_words(valid)}")


def _meant_by(word: str, valid: tuple[str, ...], side: str) -> str:
    """Return what a word may stand for, and where that belongs; empty: nothing that is known."""
    step = step_meant(word)
    said, end = f"KVM's function for the step `{step}`", "; "
    if step is None:
        close = get_close_matches(word, (*valid, *VM_STEPS, *VCPU_STEPS), n=1)
        if not close:
            return ""
        step, said, end = close[0], f"did you mean `{close[0]}`", "? "
    place = "" if step in valid else f", which belongs {side} {LOOP}"
    return f"{said}{place}{end}"


def _words(words: tuple[str, ...]) -> str:
    return ", ".join(words)


def _check_expectations(located: Located, expect: tuple[Expectation, ...]) -> None:
    for index, expectation in enumerate(expect):
        for name in expectation.when:
            if name not in Scenario.model_fields:
                valid = _words(tuple(Scenario.model_fields))
                path: YamlPath = ("expect", index, "when", name)
                raise located.error(path, f"unknown scenario field `{name}`: valid are {valid}")


def _validate(model: type[_Model], data: Any, located: Located, prefix: YamlPath = ()) -> _Model:
    """Validate as JSON, where strictness means what a YAML writer expects."""
    try:
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _explained(model, first, located, prefix) from None


def _explained(
    model: type[BaseModel], first: Any, located: Located, prefix: YamlPath
) -> OrderingError:
    """Return pydantic's first error as one that names place, key and the valid words."""
    path: YamlPath = (*prefix, *first["loc"])
    if first["type"] == "extra_forbidden":
        return located.key_error(path, _unknown_key(path[-1], model, first["loc"][:-1]))
    if first["type"] == "missing":
        return located.error(path, f"`{path[-1]}` is missing")
    while path and path not in located.places:
        path = path[:-1]  # pydantic adds the branch of a union to the path
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    text = _shortened(first["input"])
    if first["type"] == "string_pattern_mismatch" and name == "name":
        return located.error(
            path, f"`name` is kebab-case, such as unload-in-destroy (it is {text})"
        )
    if first["type"] == "string_pattern_mismatch" and name == "commit":
        form = "12 to 40 hexadecimal digits, such as e447212593a0"
        return located.error(path, f"`commit` is a commit's id, {form} (it is {text})")
    if name == "parallel":
        return located.error(path, f"`parallel` is 1..{limits.VCPUS_MAX} or all (it is {text})")
    if first["type"] == "value_error":
        place = f"`{name}`: " if name else ""
        return located.error(path, f"{place}{first['ctx']['error']}")
    return located.error(path, f"`{name}`: {first['msg']} (it is {text})")


def _unknown_key(key: str | int, model: type[BaseModel], path: YamlPath) -> str:
    keys = _keys_of(model, path)
    close = get_close_matches(str(key), keys, n=1)
    hint = f"; did you mean `{close[0]}`?" if close else ""
    return f"unknown key `{key}`: valid are {_words(keys)}{hint}"


def _keys_of(model: type[BaseModel], path: YamlPath) -> tuple[str, ...]:
    """Return the keys of the part of a model that a path leads to."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    known = tuple(name for name in model.model_fields if name != _LINES)
    return (*known, *(_ENTRY_KEYS if model is Ordering else ()))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that stands somewhere in a type, such as in `Kernel | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


__all__ = [
    "Entry",
    "Expectation",
    "OrderingError",
    "catalogue_entry",
    "catalogue_names",
    "read_ordering",
    "read_scenario",
]

"""A mutant: one function of a core, its own source with some words replaced."""

import inspect
import sys
import textwrap
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest

CORES = ("vm_manager", "vcpu_worker")


@dataclass(frozen=True)
class Mutant:
    """`place` is module:function or module:Class.method; `changes` are (words, instead)."""

    place: str
    changes: tuple[tuple[str, str], ...]


def mutate(patch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    """Put the mutant where the cores look the function up, tables of steps included."""
    module_name, _, path = mutant.place.partition(":")
    owner: Any = import_module(module_name)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real = vars(owner)[name]
    source = textwrap.dedent(inspect.getsource(real))
    for words, instead in mutant.changes:
        assert source.count(words) == 1, f"{mutant.place} has {words!r} not exactly once"
        source = source.replace(words, instead)
    made: dict[str, Any] = {}
    exec(compile(source, mutant.place, "exec"), real.__globals__, made)  # noqa: S102 - our own code
    if outer:
        patch.setattr(owner, name, made[name])
        return
    for core in [module for key, module in sys.modules.items() if key.partition(".")[0] in CORES]:
        for known, value in list(vars(core).items()):
            if value is real:
                patch.setattr(core, known, made[name])
            elif isinstance(value, dict):
                for key in [key for key, each in value.items() if each is real]:
                    patch.setitem(value, key, made[name])

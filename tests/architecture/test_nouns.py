"""One noun, one thing: no two modules define a public class or constant of the same name."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOTS = ("services", "shared", "teardown_lab")
EXCEPTIONS: frozenset[str] = frozenset()
"""Names that something outside asks for in more than one module; the reason stands beside each."""


def nouns(module: ast.Module) -> Iterator[str]:
    """Yield the public classes, constants and type aliases that a module defines."""
    for statement in module.body:
        match statement:
            case ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case ast.Assign(targets=targets):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case _:
                names = []
        yield from (name for name in names if not name.startswith("_"))


def test_no_noun_is_defined_in_two_modules() -> None:
    defined: dict[str, list[str]] = defaultdict(list)
    for path in sorted(path for root in ROOTS for path in Path(root).rglob("*.py")):
        for name in nouns(ast.parse(path.read_text(encoding="utf-8"))):
            defined[name].append(str(path))

    doubled = {name: paths for name, paths in defined.items() if len(paths) > 1}

    assert {name: paths for name, paths in doubled.items() if name not in EXCEPTIONS} == {}

"""YAML text to plain data that remembers where each part stood; pure, and safe to load.

Only the standard scalar types are built (PyYAML: SafeLoader); a key that stands twice is an error.
"""

from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]
Place = tuple[int, int]
"""Line and column, from 1."""


class OrderingError(Exception):
    """An ordering or scenario file is wrong; the text is `file:line:column: what, and the way out`.

    Attributes:
        source: The file's name.
        place: Line and column of the fault, from 1.
    """

    def __init__(self, source: str, place: Place, text: str) -> None:
        super().__init__(f"{source}:{place[0]}:{place[1]}: {text}")
        self.source = source
        self.place = place


@dataclass(frozen=True, slots=True)
class Located:
    """Plain data (dicts, lists, scalars) and the place of each of its parts, by path."""

    source: str
    data: Any
    places: dict[Path, Place]

    def place(self, path: Path) -> Place:
        """Return the place of a part, or of the nearest part around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))

    def error(self, path: Path, text: str) -> OrderingError:
        """Return the error that stands at a part."""
        return OrderingError(self.source, self.place(path), text)


def load(text: str, source: str) -> Located:
    """Return a file's data with its places.

    Raises:
        OrderingError: It is no YAML, is empty, or has a key twice.
    """
    loader = yaml.SafeLoader(text)
    places: dict[Path, Place] = {}
    try:
        node = loader.get_single_node()
        if node is None:
            raise OrderingError(source, (1, 1), "the file is empty")
        data = _build(loader, node, (), places, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise OrderingError(source, place, f"not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise OrderingError(source, (1, 1), f"not valid YAML: {first}") from None
    finally:
        loader.dispose()
    return Located(source, data, places)


def _build(
    loader: yaml.SafeLoader, node: yaml.Node, path: Path, places: dict[Path, Place], source: str
) -> Any:
    places[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.SequenceNode):
        return [
            _build(loader, child, (*path, index), places, source)
            for index, child in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node)
            place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key, str):
                raise OrderingError(source, place, f"a key is a word, not {key!r}")
            if key in data:
                raise OrderingError(source, place, f"{key!r} stands here a second time")
            data[key] = _build(loader, value_node, (*path, key), places, source)
        return data
    return loader.construct_object(node)

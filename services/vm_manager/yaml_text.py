"""YAML text to plain data that remembers where each part stood; pure, and safe to load.

Only words, numbers, truth values, lists and mappings are built. Refused are tags of any other type,
aliases (a few lines of them can stand for gigabytes), keys that stand twice, and what is longer or
deeper than any ordering.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from vm_protocol import limits

YamlPath = tuple[str | int, ...]
TextPlace = tuple[int, int]
"""Line and column, from 1."""


_TAG: Final = "tag:yaml.org,2002:"
_TEXTS: Final = tuple(_TAG + name for name in ("str", "timestamp"))
_VALUES: Final = tuple(_TAG + name for name in ("null", "bool", "int", "float"))


class OrderingError(Exception):
    """An ordering or scenario file is wrong; the text is `file:line:column: what, and the way out`.

    Attributes:
        source: The file's name.
        place: Line and column of the fault, from 1.
    """

    def __init__(self, source: str, place: TextPlace, text: str) -> None:
        super().__init__(f"{source}:{place[0]}:{place[1]}: {text}")
        self.source = source
        self.place = place


@dataclass(frozen=True, slots=True)
class Located:
    """Plain data (dicts, lists, scalars) and the place of each of its parts and keys, by path."""

    source: str
    data: Any
    places: dict[YamlPath, TextPlace]
    keys: dict[YamlPath, TextPlace] = field(default_factory=dict)

    def place(self, path: YamlPath) -> TextPlace:
        """Return the place of a part, or of the nearest part around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))

    def error(self, path: YamlPath, text: str) -> OrderingError:
        """Return the error that stands at a part."""
        return OrderingError(self.source, self.place(path), text)

    def key_error(self, path: YamlPath, text: str) -> OrderingError:
        """Return the error that stands at a part's key."""
        return OrderingError(self.source, self.keys.get(path, self.place(path)), text)


class _Loader(yaml.SafeLoader):
    """Composes nodes of bounded depth and no aliases, so that a text costs what it is long."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # bare in its stubs
        mark = event.start_mark
        assert isinstance(mark, yaml.error.Mark), "every event of the pure loader has its mark"
        problem = ""
        if isinstance(event, yaml.AliasEvent):
            problem = f"aliases such as *{event.anchor} are not used here: write it out"
        if self.depth == limits.ORDERING_FILE_DEPTH_MAX:
            problem = f"nested deeper than {limits.ORDERING_FILE_DEPTH_MAX} levels"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def load(text: str, source: str) -> Located:
    """Return a file's data with its places.

    Raises:
        OrderingError: It is no YAML, is empty or too long, or has a key twice.
    """
    if len(text) > limits.ORDERING_FILE_CHARACTERS_MAX:
        bound = limits.ORDERING_FILE_CHARACTERS_MAX
        raise OrderingError(source, (1, 1), f"{len(text)} characters; {bound} are allowed")
    located = Located(source, None, {})
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise OrderingError(source, (1, 1), "the file is empty")
        data = _build(loader, node, (), located)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise OrderingError(source, place, f"not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = (before.count("\n") + 1, error.position - before.rfind("\n"))
        raise OrderingError(source, place, f"not valid YAML: {error.reason}") from None
    return Located(source, data, located.places, located.keys)


def _build(loader: yaml.SafeLoader, node: yaml.Node, path: YamlPath, located: Located) -> Any:
    located.places[path] = _place(node)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [
            _build(loader, child, (*path, index), located) for index, child in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _TEXTS:
                raise OrderingError(located.source, _place(key_node), "a key is a word")
            key = _text(key_node, located)
            if key in data:
                text = f"{key!r} stands here a second time"
                raise OrderingError(located.source, _place(key_node), text)
            located.keys[*path, key] = _place(key_node)
            data[key] = _build(loader, value_node, (*path, key), located)
        return data
    if isinstance(node, yaml.ScalarNode) and node.tag in _TEXTS:
        return _text(node, located)
    if isinstance(node, yaml.ScalarNode) and node.tag in _VALUES:
        return _value(loader, node, located)
    kind = node.tag.removeprefix(_TAG)
    raise OrderingError(located.source, _place(node), f"a value of type {kind!r} has no use here")


def _text(node: yaml.ScalarNode, located: Located) -> str:
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise OrderingError(located.source, _place(node), "an escape that stands for no character")
    return text


def _value(loader: yaml.SafeLoader, node: yaml.ScalarNode, located: Located) -> Any:
    """Return a number, truth value or null; PyYAML lets Python's own errors through here."""
    kind = node.tag.removeprefix(_TAG)
    if len(node.value) > limits.SCALAR_CHARACTERS_MAX:
        bound = limits.SCALAR_CHARACTERS_MAX
        text = f"a value of type {kind!r} has at most {bound} characters; quote it if it is a word"
        raise OrderingError(located.source, _place(node), text)
    try:
        return loader.construct_object(node)
    except (ValueError, LookupError):
        text = f"{node.value!r} is no value of type {kind!r}"
        raise OrderingError(located.source, _place(node), text) from None


def _place(node: yaml.Node) -> TextPlace:
    return node.start_mark.line + 1, node.start_mark.column + 1
